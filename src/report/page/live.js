// The live page: the state comes whole and then as changes; texts of models become text nodes alone (text.js).
import { bytes, duration, short, visible } from "./shared.js";

(() => {
  const { count, el, textBlock } = globalThis.reportText;
  const { chart } = globalThis.liveChart;
  const byId = (id) => document.getElementById(id);
  const within = (id, selector) => byId(id).querySelector(selector);
  const paired = document.body.dataset.kind === "dpo";
  const drawEveryMs = 500;

  const stageNames = {
    features: "vision features",
    generate: "responses, contexts, verdicts",
    score: "reference log-probs",
    train: "training steps",
    save: "saving the model",
  };
  const stageStates = { begin: "running", resumed: "running, resumed", end: "done" };
  const percent = (x) => (Number.isFinite(x) ? `${(100 * x).toFixed(0)} %` : "?");
  const nameOf = (t) => (t > 0 ? `Iteration ${t}` : "Run");

  // ---------- state

  let state;

  /** The newest of a list, as many as the server keeps. */
  function add(name, item, total) {
    const list = state[name];
    list.items.push(item);
    list.total = total;
    if (list.items.length > state.limits[name]) list.items.shift();
  }

  const changes = {
    iteration({ iteration, total, progress }) {
      state.progress = progress;
      const at = state.iterations.items.findIndex((i) => i.iteration === iteration.iteration);
      if (at >= 0) state.iterations.items[at] = iteration;
      else add("iterations", iteration, total);
    },
    progress(progress) {
      state.progress = progress;
    },
    step({ step, point, total }) {
      const { series } = state;
      [state.step, series.total] = [step, total];
      if (point[0] % series.every === 0) series.points.push(point);
    },
    series(series) {
      state.series = series;
    },
    pair({ pair, total }) {
      add("pairs", pair, total);
    },
    evaluation({ evaluation, total }) {
      add("evaluations", evaluation, total);
    },
    answer({ answer, total }) {
      add("answers", answer, total);
    },
    warning({ warning, total }) {
      add("warnings", warning, total);
    },
    end(outcome) {
      state.outcome = outcome;
    },
  };

  // ---------- connection

  const outcomes = { done: "Done", stopped: "Stopped; the same command resumes", failed: "Failed" };

  /** Only when it differs: a status that is written again is read again. */
  function write(node, text) {
    const shown = visible(text);
    if (node.textContent !== shown) node.textContent = shown;
  }

  function connection(name, text) {
    byId("connection").dataset.state = name;
    write(within("connection", "b"), text);
  }

  function showOutcome() {
    const { state: end } = state.outcome;
    connection(end, outcomes[end]);
  }

  // ---------- now

  function stageText() {
    const last = state.iterations.items.findLast((i) => i.stages.length > 0);
    if (state.outcome) {
      const { state: end, code, message } = state.outcome;
      return code ? `${outcomes[end]}: ${code}: ${message.text}${rest(message)}` : `${outcomes[end]}.`;
    }
    if (!last) return "Waiting for the first event.";
    const stage = last.stages.findLast((s) => s.state !== "end") ?? last.stages.at(-1);
    const of = last.iteration > 0 ? `${nameOf(last.iteration)}: ` : "";
    return `${of}${stageNames[stage.stage] ?? stage.stage}${stage.state === "end" ? ", done" : ""}`;
  }

  const rest = ({ text, length }) =>
    text.length < length ? ` (${count(text.length)} of ${count(length)} characters)` : "";

  function showNow() {
    write(byId("stage"), stageText());
    const p = state.outcome ? null : state.progress;
    const bar = byId("bar");
    bar.hidden = !p || p.total === 0;
    const parts = [];
    if (p && p.total > 0) {
      [bar.max, bar.value] = [p.total, p.done];
      parts.push(`${count(p.done)} of ${count(p.total)}`);
      if (p.perSecond >= 1) parts.push(`${short(p.perSecond)} per second`);
      else if (p.perSecond > 0) parts.push(`${short(1 / p.perSecond)} s each`);
      if (p.perSecond > 0 && p.done < p.total) parts.push(`${duration(p.secondsLeft)} left`);
    }
    write(byId("rate"), parts.join(" · "));
    showStep();
  }

  /** What each rank did in a step, and what rank 0 spent with the others. */
  function rankFacts({ ranks, seconds }) {
    const each = ranks.map((r) => count(Math.round(r.tokensComputed / seconds))).join(", ");
    const times = ranks.map((r) => r.computeSeconds);
    const slowest = times.indexOf(Math.max(...times));
    return [
      ["tokens per second, by rank", each],
      ["slowest rank", String(slowest)],
      ["with other ranks", percent(ranks[0].communicationSeconds / seconds)],
    ];
  }

  function showStep() {
    const m = state.step;
    byId("step").hidden = !m;
    if (!m) return;
    const facts = [
      ["loss", m.loss.toFixed(4)],
      ...(paired ? [["margin", m.margin.toFixed(3)]] : []),
      ...(paired ? [["accuracy", percent(m.accuracy)]] : []),
      ["learning rate", short(m.learningRate)],
      ["gradient norm", short(m.gradNorm)],
      ["tokens per second", count(Math.round(m.tokensPerSecond))],
      ...(m.shareOfPeak > 0 ? [["of peak", percent(m.shareOfPeak)]] : []),
      ["memory", bytes(m.memoryBytes)],
      ...(m.ranks ? rankFacts(m) : []),
    ];
    byId("step").replaceChildren(...facts.map(([k, v]) => el("div", null, el("dt", null, k), el("dd", null, v))));
  }

  // ---------- tables

  function table(id, head, rows) {
    const cell = (text, i) => (i === 0 ? el("th", { scope: "row" }, text) : el("td", null, text));
    const heads = head.map((h) => el("th", { scope: "col" }, h));
    within(id, "thead").replaceChildren(el("tr", null, ...heads));
    within(id, "tbody").replaceChildren(...rows.map((r) => el("tr", null, ...r.map(cell))));
  }

  /** Those of the stages that some iteration has been in, in their order. */
  function showIterations() {
    const { items } = state.iterations;
    const stages = Object.keys(stageNames).filter((name) => items.some((i) => i.stages.some((s) => s.stage === name)));
    const counts = [...new Set(items.flatMap((i) => Object.keys(i.counts)))];
    const rows = items.map((i) => [
      nameOf(i.iteration),
      ...stages.map((name) => stageStates[i.stages.find((s) => s.stage === name)?.state] ?? "–"),
      ...counts.map((status) => count(i.counts[status] ?? 0)),
    ]);
    table("iterations", ["", ...stages, ...counts], rows.reverse());
  }

  function showEvaluations() {
    const { items } = state.evaluations;
    byId("evaluations").hidden = items.length === 0;
    const head = ["", "before step", "loss", ...(paired ? ["accuracy", "margin"] : [])];
    const rows = items.map((e) => [
      nameOf(e.iteration),
      count(e.step),
      e.loss.toFixed(4),
      ...(paired ? [percent(e.accuracy), e.margin.toFixed(3)] : []),
    ]);
    table("evaluations", head, rows.reverse());
  }

  // ---------- curves

  const columns = { loss: [3], margin: [4], accuracy: [5, [0, 1]] };

  function showCurves() {
    const { points, every, total } = state.series;
    if (total === 0) return;
    const thinned = every > 1 ? `, each ${every}th drawn` : "";
    write(byId("drawn"), `${count(total)} steps since this process began${thinned}; dotted where an iteration begins.`);
    for (const [id, [column, bounds]] of Object.entries(columns)) {
      if (!byId(id)) continue;
      const values = points.map((p) => [p[0], p[1], p[column]]).filter(([, , y]) => Number.isFinite(y));
      if (values.length === 0) continue;
      const drawing = within(id, ".drawing");
      const [first, last] = [values[0][2], values.at(-1)[2]];
      drawing.setAttribute("role", "img");
      drawing.setAttribute("aria-label", `${id}: first ${short(first)}, last drawn ${short(last)}`);
      drawing.replaceChildren(chart(values, bounds));
    }
  }

  // ---------- texts

  const block = (cut) => [
    textBlock(cut.text),
    cut.text.length < cut.length &&
      el("p", { class: "about" }, `The first ${count(cut.text.length)} of ${count(cut.length)} characters.`),
  ];
  const isolated = ({ text, length }) => el("bdi", null, `${text}${text.length < length ? "…" : ""}`);

  const response = (kind, cut) =>
    el("div", { class: `response ${kind}` }, el("p", { class: "about" }, el("strong", null, kind)), ...block(cut));

  function pairCard({ iteration, sample, chosen, rejected, context, margin }) {
    const facts = [nameOf(iteration), ...(margin === undefined ? [] : [`margin ${short(margin)} nats`])];
    return el(
      "li",
      { class: "card" },
      el("h3", null, isolated(sample)),
      el("p", { class: "about" }, facts.join(" · ")),
      el("div", { class: "pair" }, response("chosen", chosen), response("rejected", rejected)),
      context && el("details", null, el("summary", null, "Context"), ...block(context)),
    );
  }

  const answerCard = ({ model, sample, question, text }) =>
    el(
      "li",
      { class: "card" },
      el("h3", null, isolated(sample)),
      el("p", { class: "about" }, `Model ${model} · `, isolated(question)),
      ...block(text),
    );

  /** Newest first; cards that stand already stay as they are, so that what is open or focused remains so. */
  function cards(id, card, drawn) {
    const { items, total } = state[id];
    byId(id).hidden = items.length === 0;
    const fresh = Math.min(items.length, total - drawn);
    const list = within(id, ".cards");
    if (fresh > 0)
      list.prepend(
        ...items
          .slice(items.length - fresh)
          .reverse()
          .map(card),
      );
    while (list.children.length > items.length) list.lastElementChild.remove();
    write(within(id, ".about"), `The newest ${count(items.length)} of ${count(total)}.`);
    return total;
  }

  const drawn = { pairs: 0, answers: 0 };
  let held = false;

  function showTexts() {
    if (!held) drawn.pairs = cards("pairs", pairCard, drawn.pairs);
    else write(within("pairs", ".about"), `Held; ${count(state.pairs.total - drawn.pairs)} newer pairs wait.`);
    drawn.answers = cards("answers", answerCard, drawn.answers);
  }

  function hold() {
    held = !held;
    byId("hold").setAttribute("aria-pressed", String(held));
    soon();
  }

  function showWarnings() {
    const { items, total } = state.warnings;
    byId("warnings").hidden = items.length === 0;
    if (items.length < total) write(within("warnings", ".about"), `The newest ${items.length} of ${count(total)}.`);
    const row = ({ code, message }) => el("li", null, isolated(code), ": ", isolated(message), rest(message));
    within("warnings", "ul").replaceChildren(...items.map(row).reverse());
  }

  // ---------- drawing

  let waiting = false;
  let drawnAt = Number.NEGATIVE_INFINITY;

  function draw() {
    waiting = false;
    drawnAt = performance.now();
    showNow();
    showIterations();
    showEvaluations();
    showCurves();
    showTexts();
    showWarnings();
    if (state.outcome) showOutcome();
  }

  /** At most two drawings per second. */
  function soon() {
    if (waiting || !state) return;
    waiting = true;
    setTimeout(draw, Math.max(0, drawnAt + drawEveryMs - performance.now()));
  }

  /** After a break, or of another process: nothing of what stood before is known to hold. */
  function begin(snapshot) {
    const known = state && snapshot.pairs.total >= state.pairs.total && snapshot.answers.total >= state.answers.total;
    state = snapshot;
    if (!known)
      for (const id of Object.keys(drawn)) {
        drawn[id] = 0;
        within(id, ".cards").replaceChildren();
      }
    connection("live", "Live");
    soon();
  }

  const source = new EventSource(`events${location.search}`);
  source.addEventListener("snapshot", (e) => begin(JSON.parse(e.data)));
  for (const [name, change] of Object.entries(changes))
    source.addEventListener(name, (e) => {
      change(JSON.parse(e.data));
      soon();
      if (name === "end") source.close();
    });
  source.addEventListener("error", () => {
    if (state?.outcome) return;
    if (source.readyState === EventSource.CLOSED)
      connection("lost", "Refused: another run has this address now, or too many pages are open. Load again to try.");
    else connection("lost", "Connection lost, trying again. The run may have ended.");
  });
  byId("hold").addEventListener("click", hold);
})();
