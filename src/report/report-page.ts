// The page: one HTML file with its style, script and data inside, and a policy that allows nothing else.
import { drawn } from "./chart.js";
import type { Figure, Section, Table } from "./figure.js";
import { sectionsOf } from "./figures.js";
import { count, plural } from "../base/counts.js";
import { escaped, isolated, scriptJson } from "./html.js";
import { hash, joined } from "./page-parts.js";
import type { Found } from "./read-run.js";
import type { SamplePage } from "./judged-samples.js";
import { sentencesOf, summaryTable } from "./summary.js";

/** By it a page is known as one of ours. */
export const generator = '<meta name="generator" content="isr-dpo">';

const styles = ["report/page/page.css", "report/page/samples.css", "report/page/media.css"];
const scripts = ["report/page/shared.js", "report/page/text.js", "report/page/page.js"];

const cell = (text: string, head: boolean): string =>
  head ? `<th scope="row">${isolated(text)}</th>` : `<td>${isolated(text)}</td>`;

function tableOf({ head, rows, note }: Table, caption: string): string {
  const top = head.map((h) => `<th scope="col">${isolated(h)}</th>`).join("");
  const body = rows.map((r) => `<tr>${r.map((c, i) => cell(c, i === 0)).join("")}</tr>`).join("");
  const more = note ? ` <small>(${escaped(note)})</small>` : "";
  return `<div class="scroll" tabindex="0" role="region" aria-label="${escaped(caption)}"><table><caption>${isolated(caption)}${more}</caption><thead><tr>${top}</tr></thead><tbody>${body}</tbody></table></div>`;
}

function figureOf(f: Figure): string {
  const head = `<figcaption><h3>${isolated(f.title)}</h3><p>${escaped(f.about)}</p></figcaption>`;
  if (!f.chart)
    return `<figure class="card empty" id="figure-${f.id}">${head}<p class="missing">${escaped(f.missing ?? "")}</p></figure>`;
  const numbers = f.table
    ? `<details class="numbers"><summary>Numbers<span class="sr"> of ${isolated(f.title)}</span></summary>${tableOf(f.table, f.title)}</details>`
    : "";
  const label = `${f.title}. ${f.about} The numbers are in the table below.`;
  return `<figure class="card" id="figure-${f.id}">${head}<div class="drawing" role="img" aria-label="${escaped(label)}">${drawn(f.chart)}</div>${numbers}</figure>`;
}

const sectionOf = (s: Section): string =>
  `<section id="${s.id}" aria-labelledby="${s.id}-h"><h2 id="${s.id}-h">${s.title}</h2><div class="grid">${s.figures.map(figureOf).join("")}</div></section>`;

const list = (items: readonly string[]): string => `<ul>${items.map((i) => `<li>${isolated(i)}</li>`).join("")}</ul>`;

function subtitle(found: Found): string {
  const iterations = Math.max(0, ...found.runs.map((r) => r.iterations.length));
  const steps = found.runs[0]?.training?.steps ?? 0;
  if (found.kind === "training") return plural(steps, "step");
  const parts = [plural(found.table.total, "sample"), plural(iterations, "iteration")];
  const designs = found.kind === "comparison" ? [plural(found.runs.length, "context design")] : [];
  const [one] = found.runs;
  return [...parts, ...designs, ...(found.kind === "run" && one?.design ? [`${one.design} contexts`] : [])].join(" · ");
}

function summary(found: Found): string {
  const sentences = sentencesOf(found);
  const unfinished = found.runs.flatMap((r) =>
    r.iterations
      .filter((i) => i.stage !== "done")
      .map((i) => `${r.name}, iteration ${i.t} is not finished (${i.stage}).`),
  );
  const table = found.kind === "training" ? "" : tableOf(summaryTable(found), "First and last values");
  return `<section id="summary" aria-labelledby="summary-h"><h2 id="summary-h">Summary</h2>${list([...sentences, ...found.notes, ...unfinished])}${table}</section>`;
}

const browser = (page: SamplePage, framesNote: string): string => `
<section id="samples" aria-labelledby="samples-h"><h2 id="samples-h">Samples</h2>
<p class="about">${shownNote(page)} ${escaped(framesNote)}</p>
<noscript><p class="missing">The table of samples needs JavaScript; figures and numbers above do not.</p></noscript>
<form id="filters" role="search" aria-label="Samples" hidden>
<label class="grow">Search <input id="q" type="search" autocomplete="off" spellcheck="false" placeholder="id, video, question, response" aria-keyshortcuts="/"></label>
<label id="run-label">Run <select id="run"></select></label>
<label>Iteration <select id="iteration"></select></label>
<label>Status <select id="status"></select></label>
<label class="check"><input id="flips-only" type="checkbox"> turned with the order</label>
</form>
<p id="found" role="status" class="about"></p>
<div id="browser" hidden>
<div id="list"><table aria-describedby="keys"><caption class="sr">Samples</caption><thead><tr><th scope="col">Sample</th><th scope="col">Question</th><th scope="col">Status</th><th scope="col" class="num">Margin</th><th scope="col">Order</th></tr></thead><tbody id="rows"></tbody></table>
<nav id="pager" aria-label="Pages of samples"><button type="button" id="previous">Previous</button><span id="page-of"></span><button type="button" id="next">Next</button></nav>
<p id="keys" class="about keys"><kbd>/</kbd> search, <kbd>↑</kbd> <kbd>↓</kbd> or <kbd>j</kbd> <kbd>k</kbd> move, <kbd>Enter</kbd> opens, <kbd>Esc</kbd> goes back, <kbd>[</kbd> <kbd>]</kbd> iteration</p></div>
<article id="detail" aria-live="off" aria-labelledby="detail-h" tabindex="-1"></article>
</div></section>`;

function shownNote(page: SamplePage): string {
  const all = page.ids.length === page.total;
  const rows = all
    ? `All ${plural(page.total, "sample")} with their responses, contexts and verdicts.`
    : `${count(page.ids.length)} of ${plural(page.total, "sample")}, evenly spaced: more would make this page too large. The figures count all.`;
  return page.cut === 0
    ? rows
    : `${rows} ${plural(page.cut, "long text is", "long texts are")} cut to the first ${count(page.cutTo)} characters.`;
}

const contextsSection = `
<section id="contexts-section" aria-labelledby="contexts-h"><h2 id="contexts-h">Contexts over iterations</h2>
<p class="about">The context of one video in each iteration. Words that were added since the iteration before are <ins>underlined</ins>, removed ones are <del>struck through</del>.</p>
<div id="contexts" class="card"></div></section>`;

/** The whole page. */
export async function pageOf(found: Found, page: SamplePage, framesNote: string): Promise<string> {
  const [style, script] = await Promise.all([styles, scripts].map(joined));
  const sections = sectionsOf(found);
  const samples = found.kind !== "training" && page.total > 0;
  const hasContexts = page.runs.some((r) => r.iterations.some((i) => i.context.some((c) => c >= 0)));
  const links = [
    ["summary", "Summary"],
    ...sections.map((s) => [s.id, s.title]),
    ...(samples && hasContexts ? [["contexts-section", "Contexts"]] : []),
    ...(samples ? [["samples", "Samples"]] : []),
  ];
  const policy = `default-src 'none'; script-src ${hash(script!)}; style-src ${hash(style!)}; img-src data:; base-uri 'none'; form-action 'none'`;
  const data = scriptJson(samples ? page : null);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
${generator}
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>${escaped(found.title)}</title>
<style>${style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header><div><p class="kicker">isr-dpo report</p><h1>${isolated(found.title)}</h1><p class="subtitle">${escaped(subtitle(found))}</p></div></header>
<nav id="contents" aria-label="Sections"><ul>${links.map(([id, title]) => `<li><a href="#${id}">${title}</a></li>`).join("")}</ul></nav>
<main id="main">
${summary(found)}
${found.problems.length > 0 ? `<aside class="problems" aria-labelledby="problems-h"><h2 id="problems-h">What could not be read</h2>${list(found.problems)}</aside>` : ""}
${sections.map(sectionOf).join("\n")}
${samples && hasContexts ? contextsSection : ""}
${samples ? browser(page, framesNote) : ""}
</main>
<footer><p>Made by <code>isr-dpo report</code> from the files of the run alone. Works offline; nothing is sent anywhere.</p></footer>
<div id="tip" role="presentation" hidden></div>
<script type="application/json" id="data">${data}</script>
<script>${script}</script>
</body>
</html>
`;
}
