// Notes about a file: what is unusual without being a fault. They are counted while the file is read, and reported once at its
// end.
import type { BadRowOptions, NoteCode } from "./bad-rows.js";

interface Noted {
  count: number;
  line: number;
  about: string;
}

const texts: Readonly<Record<NoteCode, (n: Noted) => string>> = {
  DUPLICATE_ID: ({ count, line, about }) =>
    `${count} rows share an id with an earlier row and were given one of their own; the first: row ${line}, now ${about}`,
  MEDIA_COLUMN: ({ count, line, about }) =>
    `${count} rows have a column that looks like media and is not read: ${about}, first in row ${line}; known are video, image, videos, images`,
  NO_MEDIA: ({ count, line }) =>
    `${count} rows have no video and no image, as others of the file do; the first: row ${line}`,
};

const mediaWords = /^(?:video|image|clip|movie|frame|picture|photo|media|vid|img|pic)s?$/;

/** Whether a column's name speaks of media: one of its words (cut at _, -, blanks, points and capitals) does. */
export function namesMedia(column: string): boolean {
  const words = column
    .slice(0, 200)
    .replace(/[A-Z]/g, (c) => ` ${c.toLowerCase()}`)
    .split(/[^a-z]/);
  return words.some((word) => mediaWords.test(word));
}

export class Notes {
  readonly #noted = new Map<NoteCode, Noted>();
  #rows = 0;
  readonly #bare: Noted = { count: 0, line: 0, about: "" };

  constructor(
    readonly path: string,
    readonly options: BadRowOptions,
  ) {}

  add(code: NoteCode, line: number, about = ""): void {
    const noted = this.#noted.get(code);
    if (noted) noted.count++;
    else this.#noted.set(code, { count: 1, line, about });
  }

  /** A row that was taken; whether it has media. */
  row(line: number, media: boolean): void {
    this.#rows++;
    if (media) return;
    if (this.#bare.count++ === 0) this.#bare.line = line;
  }

  end(): void {
    if (this.#bare.count > 0 && this.#bare.count < this.#rows) this.#noted.set("NO_MEDIA", this.#bare);
    for (const [code, noted] of this.#noted) {
      const { count, line } = noted;
      const message = `${this.path}: ${texts[code](noted)}`;
      if (this.options.onNote) this.options.onNote({ path: this.path, code, count, line, message });
      else if (code !== "NO_MEDIA") process.emitWarning(message, { code: "ISR_DPO_DATA" });
    }
  }
}
