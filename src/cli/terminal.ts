// Texts of models and files on their way to a terminal: they must not move the cursor, change colours, or hide other text.

type State = "text" | "escape" | "sequence" | "string";

const stringOpeners = "PX]^_"; // after ESC: DCS, SOS, OSC, PM, APC
const c1Strings = "\u0090\u0098\u009d\u009e\u009f"; // the same as single characters

/** Drops control characters except newline and tab, and whole escape sequences, also where pieces cut them apart. */
export class Printable {
  #state: State = "text";

  push(piece: string): string {
    let out = "";
    for (const c of piece) out += this.#take(c);
    return out;
  }

  #take(c: string): string {
    const within = (low: number, high: number) => c.codePointAt(0)! >= low && c.codePointAt(0)! <= high;
    if (this.#state === "string") {
      if (c === "\u001b") this.#state = "escape";
      else if (c === "\u0007" || c === "\u009c" || c === "\n") this.#state = "text";
      return c === "\n" ? c : "";
    }
    if (this.#state === "sequence" || this.#state === "escape") {
      const parameters = this.#state === "sequence" ? within(0x20, 0x3f) : within(0x20, 0x2f);
      if (parameters) return "";
      const opens = this.#state === "escape" && c === "[" ? "sequence" : "text";
      this.#state = this.#state === "escape" && stringOpeners.includes(c) ? "string" : opens;
      if (within(0x20, 0x7e)) return ""; // the last of its sequence; what cannot belong to one is text again
    }
    return this.#plain(c, within(0, 0x1f) || within(0x7f, 0x9f));
  }

  #plain(c: string, control: boolean): string {
    if (!control || c === "\n" || c === "\t") return c;
    if (c === "\u001b") this.#state = "escape";
    else if (c === "\u009b") this.#state = "sequence";
    else if (c1Strings.includes(c)) this.#state = "string";
    return "";
  }
}

export const printable = (text: string): string => new Printable().push(text);

/** Something told to people, on stderr; names of files may hold anything. */
export const say = (line: string): void => console.error(printable(line));
