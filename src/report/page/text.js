// Texts of models and files in the page: text nodes alone, never markup; what is hidden is shown; differences are marked.
import { visible } from "./shared.js";

globalThis.reportText = (() => {
  // ---------- texts

  const count = (n) => n.toLocaleString("en-US");

  /** An element; strings become text nodes, with what is hidden made visible. */
  function el(tag, properties, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(properties ?? {})) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value === true) node.setAttribute(key, "");
      else if (value !== false && value != null) node.setAttribute(key, visible(String(value)));
    }
    for (const child of children.flat())
      if (child != null && child !== false) node.append(typeof child === "string" ? visible(child) : child);
    return node;
  }

  const foldAt = 4000;

  /** A text of a model; a long one is folded. */
  function textBlock(text) {
    if (text == null) return el("p", { class: "missing" }, "There is none.");
    if (text === "") return el("p", { class: "missing" }, "It is empty.");
    const body = el("div", { class: "text", dir: "auto" }, text.length > foldAt ? text.slice(0, foldAt) : text);
    if (text.length <= foldAt) return body;
    let open = false;
    const button = el("button", {
      type: "button",
      class: "fold",
      "aria-expanded": "false",
      onclick: () => {
        open = !open;
        body.textContent = visible(open ? text : text.slice(0, foldAt));
        label();
      },
    });
    const label = () => {
      button.textContent = open ? "Fold" : `Show all ${count(text.length)} characters`;
      button.setAttribute("aria-expanded", String(open));
    };
    label();
    return el("div", null, body, button);
  }

  const wordsOf = (text) => text.match(/\S+/gu)?.length ?? 0;

  // ---------- differences of words

  const maxCells = 4_000_000;

  /** Words of both texts in order: [kind, word], kind -1 removed, 0 kept, 1 added; null when too long to compare. */
  function differences(before, after) {
    const [a, b] = [before, after].map((t) => t.match(/\S+\s*/gu) ?? []);
    if (a.length * b.length > maxCells) return null;
    const width = b.length + 1;
    const longest = new Uint16Array((a.length + 1) * width);
    const same = (i, j) => a[i].trim() === b[j].trim();
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--) {
        const at = i * width + j;
        longest[at] = same(i, j) ? longest[at + width + 1] + 1 : Math.max(longest[at + width], longest[at + 1]);
      }
    const found = [];
    let [i, j] = [0, 0];
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && same(i, j)) {
        found.push([0, b[j]]);
        [i, j] = [i + 1, j + 1];
      } else if (j >= b.length || (i < a.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1]))
        found.push([-1, a[i++]]);
      else found.push([1, b[j++]]);
    }
    return found;
  }

  /** A text with its differences from an earlier one marked. */
  function marked(before, after) {
    if (before == null || before === after) return textBlock(after);
    const found = differences(before, after);
    if (!found) return el("div", null, el("p", { class: "about" }, "Too long to mark differences."), textBlock(after));
    const body = el("div", { class: "text", dir: "auto" });
    for (let i = 0; i < found.length; ) {
      const kind = found[i][0];
      let run = "";
      for (; i < found.length && found[i][0] === kind; i++) run += found[i][1];
      const words = run.trimEnd();
      body.append(kind === 0 ? visible(run) : el(kind > 0 ? "ins" : "del", null, words));
      if (kind !== 0) body.append(run.slice(words.length) || " ");
    }
    return body;
  }

  return { count, el, marked, textBlock, wordsOf };
})();
