// Texts on their way into the page: they can never become markup, and characters that are invisible or move their neighbours
// are shown.
import { visible } from "./page/shared.js";

const named: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

/** For content and quoted attributes. */
export const escaped = (text: string): string => visible(text).replace(/[&<>"']/g, (c) => named[c]!);

/** Text of others inside a sentence of ours: its direction stays its own. */
export const isolated = (text: string): string => `<bdi>${escaped(text)}</bdi>`;

/** JSON that can stand in a script element whatever its strings hold. */
export const scriptJson = (value: unknown): string =>
  JSON.stringify(value).replace(/[<>&\u2028\u2029]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
