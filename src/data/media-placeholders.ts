// The placeholders for media in texts: `<video>` and `<image>`, and those of other families. They are found by plain search,
// whose time is linear in the length of any text.
export type Kind = "video" | "image";

/** What stands between places, and the places: text, place, text, ..., text. Line breaks beside a place belong to it. */
export type Cut = { texts: string[]; kinds: Kind[] };

const words: readonly (readonly [word: string, kind: Kind])[] = [
  ["<video>", "video"],
  ["<image>", "image"],
];

/** Places as the templates of other families write them; in a row they stand for nothing. */
export const foreignPlaces: readonly string[] = [
  ...["<|video_pad|>", "<|image_pad|>", "<|video|>", "<|image|>", "<|vision_start|>", "<|vision_end|>"],
  ...["<video_placeholder>", "<image_placeholder>", "<vi_start>", "<vi_end>", "<vi_patch>"],
  ...["<im_start>", "<im_end>", "<im_patch>", "<video_soft_token>", "<image_soft_token>"],
];

/** The first place at or behind `from`; null: none. */
function nextPlace(text: string, from: number): { at: number; word: string; kind: Kind } | null {
  for (let at = text.indexOf("<", from); at >= 0; at = text.indexOf("<", at + 1))
    for (const [word, kind] of words) if (text.startsWith(word, at)) return { at, word, kind };
  return null;
}

export const hasPlace = (text: string): boolean => nextPlace(text, 0) !== null;

/** A place of another family's words in the text, if there is one. */
export const foreignPlace = (text: string): string | undefined => foreignPlaces.find((word) => text.includes(word));

export function cutAtPlaces(text: string): Cut {
  const cut: Cut = { texts: [], kinds: [] };
  let from = 0;
  for (let place = nextPlace(text, 0); place; place = nextPlace(text, from)) {
    let [begin, end] = [place.at, place.at + place.word.length];
    while (begin > from && text[begin - 1] === "\n") begin--;
    while (text[end] === "\n") end++;
    cut.texts.push(text.slice(from, begin));
    cut.kinds.push(place.kind);
    from = end;
  }
  cut.texts.push(text.slice(from));
  return cut;
}

/** How many places of each kind a text has. */
export function countPlaces(text: string): Record<Kind, number> {
  const count = { video: 0, image: 0 };
  for (const kind of cutAtPlaces(text).kinds) count[kind]++;
  return count;
}
