// The report in a browser: at three sizes, light and dark, with keys, with hostile texts. SCREENSHOTS=folder keeps pictures.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ordered } from "./helpers/assert.js";
import { report } from "../src/report/report.js";
import { browser, type Opened, opened, picture } from "./helpers/browser.js";
import { needing } from "./helpers/optional.js";
import { temporaryFolder } from "./helpers/files.js";
import { drawnRun, hostileRun, hostileTexts, writeComparison, writeRun, writeTraining } from "./helpers/run-folder.js";

const test = suite("report-page");
const { b, missing } = await browser();
const seen = needing(test, missing);
test.after(() => b?.close());

async function comparison(): Promise<string> {
  const dir = temporaryFolder();
  await writeComparison(dir, { samples: 120, iterations: 3 });
  return report(dir);
}

async function single(): Promise<string> {
  const dir = temporaryFolder();
  await writeRun(dir, drawnRun({ design: "retrospective", samples: 60, iterations: 9, seed: 2 }));
  const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=";
  writeFileSync(join(dir, "thumbnails.json"), JSON.stringify({ "clips/clip-0000.mp4": png }));
  return report(dir);
}

async function training(): Promise<string> {
  const dir = temporaryFolder();
  const { metrics } = drawnRun({ design: "none", samples: 2, iterations: 1, seed: 3 }).iterations[0]!;
  writeTraining(
    join(dir, "train"),
    metrics!,
    [0, 30].map((step) => ({ step, loss: 1, accuracy: 0.5, margin: 0 })),
  );
  return report(dir);
}

async function hostile(): Promise<string> {
  const dir = temporaryFolder();
  await writeRun(dir, hostileRun());
  return report(dir);
}

const pages = { comparison, single, training, hostile };
const files = new Map<string, Promise<string>>();
function fileOf(name: keyof typeof pages): Promise<string> {
  if (!files.has(name)) files.set(name, pages[name]());
  return files.get(name)!;
}

/** Nothing was logged, nothing but the file asked for, nothing wider than the screen. */
async function checkQuiet({ page, said, asked }: Opened, file: string): Promise<void> {
  assert.equal(said, []);
  const own = pathToFileURL(file).href;
  assert.equal(
    asked.filter((url) => url.split("#")[0] !== own && !url.startsWith("data:")),
    [],
  );
  const [inner, outer] = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]");
  assert.ok(inner <= outer, `${inner} pixels on ${outer}`);
}

for (const name of Object.keys(pages) as (keyof typeof pages)[])
  for (const width of [360, 1024, 1600])
    for (const scheme of ["light", "dark"] as const)
      seen(`${name} at ${width}, ${scheme}`, async () => {
        const file = await fileOf(name);
        const o = await opened(b!, file, { width, scheme });
        await checkQuiet(o, file);
        await picture(o.page, `${name}-${width}-${scheme}`);
        await o.page.close();
      });

// Contrast of every text that is shown, against what lies behind it, by the formula of WCAG 2.
const contrast = `(() => {
  const channel = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
  const colour = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (node) => {
    for (let n = node; n; n = n.parentElement) {
      const c = colour(getComputedStyle(n).backgroundColor);
      if (c.length < 4 || c[3] > 0.99) return c;
    }
    return [255, 255, 255];
  };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || node.closest("script, option, :disabled, text.in") || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const ink = colour(node instanceof SVGElement ? style.fill : style.color);
    const [a, c] = [light(ink), light(behind(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (c + 0.05) < 4.5) bad.push(walker.currentNode.data.slice(0, 30) + " " + ((a + 0.05) / (c + 0.05)).toFixed(2));
  }
  return [...new Set(bad)];
})()`;

for (const scheme of ["light", "dark"] as const)
  seen(`contrast is at least 4.5, ${scheme}`, async () => {
    const o = await opened(b!, await fileOf("comparison"), { width: 1024, scheme });
    assert.equal(await o.page.evaluate(contrast), []);
    await o.page.close();
  });

seen("structure: landmarks, one h1, headings in order, names for controls, a table for every chart", async () => {
  const o = await opened(b!, await fileOf("comparison"), { width: 1024 });
  const found = await o.page.evaluate(`({
    landmarks: ["header", "nav", "main", "footer"].filter((t) => !document.querySelector(t)),
    h1: document.querySelectorAll("h1").length,
    levels: [...document.querySelectorAll("h1, h2, h3, h4")].map((h) => Number(h.tagName[1])),
    unnamed: [...document.querySelectorAll("button, input, select")].filter((c) => !c.labels?.length && !c.textContent.trim() && !c.getAttribute("aria-label")).length,
    drawings: [...document.querySelectorAll("[role=img]")].filter((d) => !d.getAttribute("aria-label")).map((d) => d.outerHTML.slice(0, 80)),
    charts: document.querySelectorAll("figure .drawing").length,
    tables: document.querySelectorAll("figure .numbers table").length,
    ids: [...document.querySelectorAll("[id]")].map((e) => e.id).filter((id, i, all) => all.indexOf(id) !== i),
    images: [...document.images].filter((i) => !i.alt).map((i) => i.src.slice(0, 80)),
  })`);
  const { landmarks, drawings, images } = found; // that lack what they should have
  assert.equal({ landmarks, drawings, images }, { landmarks: [], drawings: [], images: [] });
  assert.equal([found.h1, found.unnamed, found.ids], [1, 0, []]);
  ordered(found.charts, ">", 10);
  assert.is(found.charts, found.tables);
  found.levels.slice(1).forEach((level: number, i: number) => {
    ordered(level - found.levels[i], "<=", 1);
  });
  await o.page.close();
});

const focused = "document.activeElement.textContent";
const title = 'document.getElementById("detail-h").textContent';

seen("keys: search, move, open, back, other iteration", async () => {
  const file = await fileOf("comparison");
  const o = await opened(b!, file, { width: 1600 });
  const { page } = o;
  await page.keyboard.press("/");
  assert.is(await page.evaluate("document.activeElement.id"), "q");
  await page.keyboard.type("clip-0007");
  const hits = 'document.getElementById("found").textContent';
  while (!(await page.evaluate(hits)).startsWith("2 of")) await setTimeout(20); // it waits for the typing to end
  await page.keyboard.press("Escape");
  assert.is(await page.evaluate(focused), "clip-0007/q0");
  await page.keyboard.press("ArrowDown");
  assert.is(await page.evaluate(focused), "clip-0007/q1");
  await page.keyboard.press("k");
  await page.keyboard.press("j");
  await page.keyboard.press("Enter");
  assert.is(await page.evaluate("document.activeElement.id"), "detail");
  assert.is(await page.evaluate(title), "clip-0007/q1");
  assert.match(await page.evaluate("location.hash"), /^#sample=clip-0007%2Fq1&run=retrospective&iteration=3$/);
  await page.keyboard.press("Escape");
  assert.is(await page.evaluate(focused), "clip-0007/q1");
  await page.keyboard.press("[");
  assert.is(await page.evaluate('document.getElementById("iteration").value'), "2");
  await checkQuiet(o, file);
  await page.close();
});

seen("filters: status, choices that turned; pages", async () => {
  const { page, said } = await opened(b!, await fileOf("comparison"), { width: 1600 });
  await page.selectOption("#status", "disagree");
  const states = '[...new Set([...document.querySelectorAll("#rows td:nth-child(3)")].map((c) => c.textContent))]';
  assert.equal(await page.evaluate(states), ["disagree"]);
  await page.selectOption("#status", "");
  await page.click("#flips-only");
  const orders = '[...new Set([...document.querySelectorAll("#rows td:nth-child(5)")].map((c) => c.textContent))]';
  assert.equal(await page.evaluate(orders), ["turned"]);
  await page.click("#flips-only");
  assert.is(await page.evaluate('document.getElementById("page-of").textContent'), "Page 1 of 3");
  await page.click("#next");
  assert.is(await page.evaluate('document.querySelector(".open-row").textContent'), "clip-0025/q0");
  assert.equal(said, []);
  await page.close();
});

seen("a link to a sample opens it; contexts have their differences marked", async () => {
  const file = await fileOf("single");
  const { page, said } = await opened(b!, file, { width: 1024, hash: "#sample=clip-0003%2Fq1&iteration=4" });
  assert.is(await page.evaluate(title), "clip-0003/q1");
  assert.is(await page.evaluate('document.getElementById("iteration").value'), "4");
  ordered(await page.evaluate('document.querySelectorAll("#detail .timeline ins").length'), ">", 0);
  assert.is(await page.evaluate('document.querySelectorAll("#detail .timeline li").length'), 9);
  assert.equal(said, []);
  await page.close();
});

seen("frames are shown where there are some", async () => {
  const { page } = await opened(b!, await fileOf("single"), { width: 1024, hash: "#sample=clip-0000%2Fq0" });
  assert.is(await page.evaluate('document.querySelector("#detail img").naturalWidth'), 1);
  await page.close();
});

seen("hostile texts are text: nothing of them becomes an element, hidden characters are shown", async () => {
  const file = await fileOf("hostile");
  for (const [id, text] of hostileTexts) {
    const o = await opened(b!, file, { width: 1024, hash: `#sample=${encodeURIComponent(id)}` });
    const found = await o.page.evaluate(`({
      title: document.title,
      scripts: document.scripts.length,
      bold: document.querySelectorAll("#detail b, #detail i, #detail img, main script").length,
      shown: document.querySelector("#detail .response .text")?.textContent ?? "",
      fold: document.querySelector("#detail .response .fold")?.textContent ?? "",
      name: document.getElementById("detail-h").textContent,
    })`);
    assert.not.match(found.title, /owned/);
    assert.equal([found.scripts, found.bold], [2, 0], id);
    assert.not.match(found.shown + found.name, /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u);
    if (text.includes("\0")) assert.match(found.shown, /null \[U\+0000\]\[U\+0000\] and \[U\+001B\]\[31mred/);
    if (text.includes("\u202e")) assert.match(found.shown, /before \[U\+202E\]gnihtemos/);
    if (text.includes("</script>")) assert.is(found.shown, text);
    if (text.length > 1e6) {
      ordered(found.shown.length, "<", 10_000, "it is folded");
      assert.is(found.fold, "Show all 1,050,000 characters");
      await o.page.click("#detail .response .fold");
      const all = 'document.querySelector("#detail .response .text").textContent.length';
      assert.is(await o.page.evaluate(all), text.length);
    }
    await checkQuiet(o, file);
    await o.page.close();
  }
});

seen("print: the figures and the sample at hand, no controls", async () => {
  const { page, said } = await opened(b!, await fileOf("comparison"), { width: 1024 });
  await page.emulateMedia({ media: "print" });
  const shown =
    '["contents", "filters", "list", "detail", "figure-words"].filter((id) => document.getElementById(id).getClientRects().length > 0)';
  assert.equal(await page.evaluate(shown), ["detail", "figure-words"]);
  await picture(page, "print");
  assert.equal(said, []);
  await page.close();
});

test.run();
