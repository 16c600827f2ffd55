// The document of the live page: the report's style, its own script, and a policy that allows nothing else but its events.
import { escaped, isolated } from "./html.js";
import { hash, joined } from "./page-parts.js";

export interface LivePage {
  html: string;
  /** Content-Security-Policy. */
  policy: string;
}

const styles = ["report/page/page.css", "report/page/samples.css", "report/page/live.css"];
const scripts = ["shared.js", "text.js", "live-chart.js", "live.js"].map((name) => `report/page/${name}`);

const curve = (id: string, title: string, about: string): string =>
  `<figure class="card" id="${id}"><figcaption><h3>${title}</h3><p>${about}</p></figcaption><div class="drawing"></div></figure>`;

const curves = (kind: "sft" | "dpo"): string =>
  [
    curve("loss", "Loss", "Of each optimizer step."),
    ...(kind === "dpo"
      ? [
          curve("margin", "Margin", "Reward of the chosen answer less that of the rejected one."),
          curve("accuracy", "Accuracy", "Share of the pairs whose margin is above 0."),
        ]
      : []),
  ].join("");

const body = (kind: "sft" | "dpo"): string => `
<section id="now" aria-labelledby="now-h"><h2 id="now-h">Now</h2>
<div class="card"><p id="stage" role="status">Waiting for the first event.</p>
<progress id="bar" aria-labelledby="stage" max="1" value="0" hidden></progress>
<p id="rate" class="about"></p><dl id="step" hidden></dl></div></section>
<aside id="warnings" class="problems" aria-labelledby="warnings-h" hidden><h2 id="warnings-h">Warnings</h2><p class="about"></p><ul></ul></aside>
<section id="iterations" aria-labelledby="iterations-h"><h2 id="iterations-h">${kind === "dpo" ? "Iterations" : "Stages"}</h2>
<p class="about">Counts are of what this process told; <code>isr-dpo report</code> counts all.</p>
<div class="scroll card" tabindex="0" role="region" aria-labelledby="iterations-h"><table><thead></thead><tbody></tbody></table></div></section>
<section id="curves" aria-labelledby="curves-h"><h2 id="curves-h">Training</h2><p id="drawn" class="about">No step yet.</p><div class="grid">${curves(kind)}</div></section>
<section id="evaluations" aria-labelledby="evaluations-h" hidden><h2 id="evaluations-h">Evaluation</h2>
<div class="scroll card" tabindex="0" role="region" aria-labelledby="evaluations-h"><table><thead></thead><tbody></tbody></table></div></section>
<section id="pairs" aria-labelledby="pairs-h" hidden><h2 id="pairs-h">Latest pairs</h2>
<div class="bar"><p class="about"></p><button id="hold" type="button" aria-pressed="false">Hold still</button></div><ol class="cards"></ol></section>
<section id="answers" aria-labelledby="answers-h" hidden><h2 id="answers-h">Sample answers</h2><p class="about"></p><ol class="cards"></ol></section>`;

export async function livePage(kind: "sft" | "dpo", title: string): Promise<LivePage> {
  const [style, script] = await Promise.all([styles, scripts].map(joined));
  const policy = [
    "default-src 'none'",
    `script-src ${hash(script!)}`,
    `style-src ${hash(style!)}`,
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join("; ");
  const html = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escaped(title)} · live</title>
<style>${style}</style>
</head>
<body data-kind="${kind}">
<a class="skip" href="#main">Skip to the content</a>
<header><p class="kicker">isr-dpo live</p><h1>${isolated(title)}</h1><p class="subtitle" id="connection" data-state="waiting"><span aria-hidden="true"></span><b>Connecting</b></p></header>
<main id="main">
<noscript><p class="missing">The live page needs JavaScript; <code>isr-dpo report</code> does not.</p></noscript>
${body(kind)}
</main>
<footer><p>Served by the run itself, to this machine alone; it ends with the run.</p></footer>
<script>${script}</script>
</body>
</html>
`;
  return { html, policy };
}
