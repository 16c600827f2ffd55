// The page's table of samples, its contexts over iterations, and the tips of its charts.
import { visible } from "./shared.js";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const { count, el, marked, textBlock, wordsOf } = globalThis.reportText;

  // ---------- contexts

  /** Contexts of a video over a run's iterations. */
  function timeline(run, video) {
    let before = null;
    const items = run.iterations.map((it) => {
      const text = it.context[video] >= 0 ? data.texts[it.context[video]] : null;
      const note = text !== null && text === before ? " unchanged" : "";
      const item = el(
        "li",
        null,
        el("span", { class: "when" }, `iteration ${it.t}${note}`),
        text === null ? el("p", { class: "missing" }, "No context.") : marked(before, text),
      );
      if (text !== null) before = text;
      return item;
    });
    return el("ol", { class: "timeline" }, items);
  }

  // ---------- tips of charts

  const tip = byId("tip");
  document.addEventListener("pointermove", (e) => {
    const over = e.target instanceof Element && e.target.closest("[data-tip]");
    tip.hidden = !over;
    if (!over) return;
    // Marks may lie on each other: each has its line.
    const marks = document.elementsFromPoint(e.clientX, e.clientY).filter((n) => n.matches("[data-tip]"));
    tip.textContent = marks.map((n) => n.getAttribute("data-tip")).join("\n");
    tip.style.left = `${Math.max(4, Math.min(e.clientX + 12, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(4, e.clientY - tip.offsetHeight - 10)}px`;
  });

  if (!data) return;

  // ---------- contexts over iterations

  const contextsOf = (run, video) => new Set(run.iterations.map((it) => it.context[video]).filter((c) => c >= 0));

  function showContexts() {
    const place = byId("contexts");
    if (!place) return;
    const variety = (run) => Math.max(0, ...data.videos.map((_, v) => contextsOf(run, v).size));
    const runs = [...data.runs].sort((a, b) => variety(b) - variety(a));
    const named = runs.find((r) => r.name === "retrospective");
    let run = named && variety(named) > 0 ? named : runs[0];
    const videos = data.videos.map((_, v) => v).filter((v) => data.runs.some((r) => contextsOf(r, v).size > 0));
    let at = Math.max(
      0,
      videos.findIndex((v) => contextsOf(run, v).size === variety(run)),
    );
    const picture = el("div");
    const name = el("span", { class: "text", "aria-live": "polite" });
    const body = el("div");
    const draw = () => {
      const video = videos[at];
      name.textContent = visible(data.videos[video] || "video");
      picture.replaceChildren(...frames(video));
      body.replaceChildren(timeline(run, video));
    };
    const step = (by) => () => {
      at = (at + by + videos.length) % videos.length;
      draw();
    };
    const choice = el("select", {
      "aria-label": "Run",
      onchange: () => {
        run = data.runs[choice.selectedIndex];
        draw();
      },
    });
    choice.append(...data.runs.map((r) => el("option", null, r.name)));
    choice.selectedIndex = data.runs.indexOf(run);
    choice.style.width = "auto";
    place.append(
      el(
        "div",
        { class: "bar" },
        data.runs.length > 1 && choice,
        el("button", { type: "button", onclick: step(-1) }, "Previous video"),
        el("button", { type: "button", onclick: step(1) }, "Next video"),
        name,
      ),
      picture,
      body,
    );
    draw();
  }

  const frames = (video) => {
    const url = data.frames[video];
    return url ? [el("img", { class: "strip", src: url, alt: `Frames of ${data.videos[video]}` })] : [];
  };

  // ---------- the list

  const stacked = () => matchMedia("(max-width: 60rem)").matches; // the sample stands below the list
  const pageRows = stacked() ? 20 : 50;
  const state = { run: 0, t: 0, page: 0, matching: [], selected: -1 };
  const runNow = () => data.runs[state.run];
  const now = () => runNow().iterations[state.t];
  const ids = new Map(data.ids.map((id, i) => [id, i]));

  const statusOf = (it, i) => (it.status[i] >= 0 ? data.statuses[it.status[i]] : "open");

  function marginOf(it, i) {
    const given = [it.first[i], it.second[i]].filter((v) => v !== 0);
    if (given.length === 0 || given.some((v) => v[1] === null)) return null;
    return given.reduce((sum, v) => sum + v[1], 0) / given.length;
  }

  function flipOf(it, i) {
    const [a, b] = [it.first[i], it.second[i]];
    if (a === 0 || b === 0 || a[0] < 0 || b[0] < 0) return null;
    return a[0] !== b[0];
  }

  const flipText = (flip) => (flip === null ? "–" : flip ? "turned" : "same");
  const marginText = (m) => (m === null ? "–" : Math.abs(m).toFixed(2));

  function statusMark(status) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [key, value] of Object.entries({ width: 10, height: 10, "aria-hidden": "true" }))
      svg.setAttribute(key, value);
    for (const [key, value] of Object.entries({ width: 10, height: 10, rx: 2, class: `s-${status}` }))
      rect.setAttribute(key, value);
    svg.append(rect);
    return el("span", { class: "state" }, svg, status);
  }

  function rowOf(i) {
    const it = now();
    const margin = marginOf(it, i);
    const question = (data.texts[data.question[i]] ?? "").slice(0, 200);
    const about = { type: "button", class: "open-row", "data-sample": i, title: data.ids[i] };
    return el(
      "tr",
      { "aria-current": i === state.selected ? "true" : null, onclick: () => open(i, false) },
      el(
        "td",
        null,
        el("button", about, el("bdi", null, data.ids[i])),
        el("span", { class: "below" }, el("bdi", null, question)),
      ),
      el("td", null, el("bdi", null, question)),
      el("td", null, statusMark(statusOf(it, i))),
      el("td", { class: "num" }, marginText(margin)),
      el("td", null, flipText(flipOf(it, i))),
    );
  }

  let lower;
  /** Indices of pool texts that hold the words that were typed. */
  function textsWith(query) {
    lower ??= data.texts.map((t) => t.toLowerCase());
    const found = new Set();
    lower.forEach((t, k) => {
      if (t.includes(query)) found.add(k);
    });
    return found;
  }

  function filter() {
    const query = byId("q").value.trim().toLowerCase();
    const status = byId("status").value;
    const turned = byId("flips-only").checked;
    const it = now();
    const hits = query === "" ? null : textsWith(query);
    const holds = (i) =>
      !hits ||
      data.ids[i].toLowerCase().includes(query) ||
      data.videos[data.video[i]].toLowerCase().includes(query) ||
      [data.question[i], it.a[i], it.b[i], it.context[data.video[i]]].some((k) => hits.has(k));
    state.matching = data.ids
      .map((_, i) => i)
      .filter((i) => (status === "" || statusOf(it, i) === status) && (!turned || flipOf(it, i) === true) && holds(i));
    state.page = 0;
    byId("found").textContent =
      state.matching.length === 0
        ? "No sample fits these filters."
        : `${count(state.matching.length)} of ${count(data.ids.length)} samples, iteration ${it.t}.`;
    drawRows();
  }

  function drawRows() {
    const pages = Math.max(1, Math.ceil(state.matching.length / pageRows));
    const from = state.page * pageRows;
    byId("rows").replaceChildren(...state.matching.slice(from, from + pageRows).map(rowOf));
    byId("page-of").textContent = `Page ${count(state.page + 1)} of ${count(pages)}`;
    byId("previous").disabled = state.page === 0;
    byId("next").disabled = state.page >= pages - 1;
    byId("pager").hidden = pages === 1;
  }

  const turnPage = (by) => () => {
    state.page += by;
    drawRows();
  };

  // ---------- one sample

  function verdictTable(it, i) {
    const rows = [it.first[i], it.second[i]].map((v, order) => {
      if (v === 0) return null;
      const [prefer, margin, raw] = v;
      const choice = prefer >= 0 ? `response ${prefer + 1}` : margin === null ? "not read" : "tie";
      return el(
        "tr",
        null,
        el("th", { scope: "row" }, `response ${order + 1} first`),
        el("td", null, choice),
        el("td", { class: "num" }, margin === null ? "–" : margin.toFixed(3).replace("-", "−")),
        el("td", null, raw >= 0 ? textBlock(data.texts[raw]) : "–"),
      );
    });
    if (rows.every((r) => r === null)) return el("p", { class: "missing" }, "It was not judged.");
    const head = ["order", "choice", "margin for response 1, nats", "said"].map((h, k) =>
      el("th", { scope: "col", class: k === 2 ? "num" : null }, h),
    );
    return el(
      "table",
      null,
      el("caption", { class: "sr" }, "Verdicts"),
      el("thead", null, el("tr", null, head)),
      el("tbody", null, rows),
    );
  }

  function response(it, i, which) {
    const text = data.texts[which === 0 ? it.a[i] : it.b[i]] ?? null;
    const chosen = it.chosen[i];
    const label = chosen < 0 ? "" : chosen === which ? "chosen" : "rejected";
    const words = text === null ? "" : `${count(wordsOf(text))} words`;
    return el(
      "section",
      { class: `response ${label}`, "aria-label": `Response ${which + 1} ${label}` },
      el("header", null, el("strong", null, `Response ${which + 1}${label && `, ${label}`}`), words),
      textBlock(text),
    );
  }

  /** Runs by iterations: the state of the sample in each, to go there. */
  function matrix(i) {
    const rows = data.runs.map((run, r) =>
      el(
        "tr",
        null,
        data.runs.length > 1 && el("th", { scope: "row" }, el("bdi", null, run.name)),
        run.iterations.map((it, t) => {
          const go = () => {
            choose(r, t);
            open(i, false);
          };
          const pressed = r === state.run && t === state.t;
          const label = `${run.name}, iteration ${it.t}: ${statusOf(it, i)}`;
          const button = el("button", {
            type: "button",
            "aria-pressed": String(pressed),
            "aria-label": label,
            onclick: go,
          });
          button.append(statusMark(statusOf(it, i)));
          return el("td", null, button);
        }),
      ),
    );
    const heads = runNow().iterations.map((it) => el("th", { scope: "col" }, `it. ${it.t}`));
    const corner = data.runs.length > 1 && el("td", null, "");
    const table = el(
      "table",
      { class: "matrix" },
      el("caption", { class: "sr" }, "The sample by run and iteration"),
      el("thead", null, el("tr", null, corner, heads)),
      el("tbody", null, rows),
    );
    return el("div", { class: "scroll" }, table);
  }

  function detail(i) {
    const it = now();
    const video = data.video[i];
    const context = it.context[video] >= 0 ? data.texts[it.context[video]] : null;
    const [status, margin, flip] = [statusOf(it, i), marginOf(it, i), flipOf(it, i)];
    const facts = [
      `iteration ${it.t}`,
      data.runs.length > 1 && runNow().name,
      margin !== null && `margin ${marginText(margin)} nats`,
      flip !== null && (flip ? "choice turned with the order" : "same choice in both orders"),
    ].filter(Boolean);
    const pictures = frames(video);
    byId("detail").replaceChildren(
      el("h3", { id: "detail-h" }, el("bdi", null, data.ids[i])),
      el(
        "p",
        { class: "about" },
        statusMark(status),
        ` · ${facts.join(" · ")} · `,
        el("bdi", null, data.videos[video] || "no video"),
      ),
      ...(it.skip[i] === undefined ? [] : [el("p", { class: "missing text" }, data.texts[it.skip[i]])]),
      ...(pictures.length > 0 ? pictures : [el("p", { class: "about" }, "No frames of this video.")]),
      el("div", { class: "question text", dir: "auto" }, data.texts[data.question[i]] ?? ""),
      matrix(i),
      el("h4", null, "Responses"),
      el("div", { class: "pair" }, response(it, i, 0), response(it, i, 1)),
      el("h4", null, "Verdict by order"),
      verdictTable(it, i),
      el("h4", null, "Context used"),
      context === null ? el("p", { class: "missing" }, "The judge had no context.") : textBlock(context),
      ...(contextsOf(runNow(), video).size > 0
        ? [el("h4", null, "Contexts over iterations"), timeline(runNow(), video)]
        : []),
    );
    byId("detail").scrollTop = 0;
  }

  const hashOf = (i) => {
    const parts = [`sample=${encodeURIComponent(data.ids[i].toWellFormed?.() ?? data.ids[i])}`];
    if (data.runs.length > 1) parts.push(`run=${encodeURIComponent(runNow().name)}`);
    parts.push(`iteration=${now().t}`);
    return `#${parts.join("&")}`;
  };

  /** Shows a sample; with `go` the reader is taken to it. */
  function open(i, go) {
    state.selected = i;
    const at = state.matching.indexOf(i);
    const page = Math.floor(at / pageRows);
    if (at >= 0 && page !== state.page) {
      state.page = page;
      drawRows();
    }
    for (const row of byId("rows").children) {
      const own = row.querySelector(".open-row").dataset.sample === String(i);
      if (own) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
    detail(i);
    try {
      history.replaceState(null, "", hashOf(i));
    } catch {
      // Some places that show files do not let a page change its address.
    }
    if (go || stacked()) byId("detail").focus({ preventScroll: !stacked() });
  }

  function choose(run, t) {
    state.run = run;
    state.t = Math.max(0, Math.min(t, runNow().iterations.length - 1));
    byId("run").selectedIndex = run;
    const iterations = runNow().iterations;
    byId("iteration").replaceChildren(...iterations.map((it) => el("option", null, String(it.t))));
    byId("iteration").selectedIndex = state.t;
    const [page, selected] = [state.page, state.selected];
    filter();
    state.page = Math.min(page, Math.max(0, Math.ceil(state.matching.length / pageRows) - 1));
    drawRows();
    if (selected >= 0) detail(selected);
  }

  /** #sample=ID&run=NAME&iteration=T */
  function follow() {
    const wanted = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B"));
    const i = ids.get(wanted.get("sample"));
    if (i === undefined) return false;
    const named = data.runs.findIndex((r) => r.name === wanted.get("run"));
    const run = named >= 0 ? named : state.run;
    const t = data.runs[run].iterations.findIndex((it) => String(it.t) === wanted.get("iteration"));
    choose(run, t < 0 ? data.runs[run].iterations.length - 1 : t);
    open(i, true);
    byId(stacked() ? "detail" : "samples").scrollIntoView({ behavior: "instant" });
    return true;
  }

  // ---------- keys

  function move(to) {
    const buttons = [...byId("rows").querySelectorAll(".open-row")];
    const focused = buttons.indexOf(document.activeElement);
    const current = focused >= 0 ? focused : buttons.findIndex((b) => b.dataset.sample === String(state.selected));
    const next = to(current, buttons.length);
    buttons[Math.max(0, Math.min(next, buttons.length - 1))]?.focus();
  }

  const keys = {
    j: () => move((at) => at + 1),
    k: () => move((at) => at - 1),
    ArrowDown: () => move((at) => at + 1),
    ArrowUp: () => move((at) => at - 1),
    Home: () => move(() => 0),
    End: () => move((_, n) => n - 1),
    PageDown: () => byId("next").click(),
    PageUp: () => byId("previous").click(),
    "[": () => choose(state.run, state.t - 1),
    "]": () => choose(state.run, state.t + 1),
  };

  function onKey(e) {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const typing = e.target.closest?.("input, select, textarea");
    if (e.key === "/" && !typing) {
      e.preventDefault();
      byId("q").focus();
      return;
    }
    if (e.key === "Escape" && byId("samples").contains(e.target)) {
      const row = byId("rows").querySelector("[aria-current] .open-row") ?? byId("rows").querySelector(".open-row");
      row?.focus();
      return;
    }
    if (typing || !byId("browser").contains(e.target)) return;
    if (byId("detail").contains(e.target) && /^(Arrow|Page|Home|End)/.test(e.key)) return; // they scroll there
    if (!Object.hasOwn(keys, e.key)) return;
    e.preventDefault();
    keys[e.key]();
  }

  // ---------- start

  showContexts();
  if (data.runs.length === 0 || data.runs.some((r) => r.iterations.length === 0)) return;
  byId("filters").hidden = false;
  byId("browser").hidden = false;
  byId("run-label").hidden = data.runs.length < 2;
  byId("run").append(...data.runs.map((r) => el("option", null, r.name)));
  byId("status").append(
    el("option", { value: "" }, "any"),
    ...[...data.statuses, "open"].map((s) => el("option", { value: s }, s)),
  );
  byId("filters").addEventListener("submit", (e) => e.preventDefault());
  byId("run").addEventListener("change", () => choose(byId("run").selectedIndex, state.t));
  byId("iteration").addEventListener("change", () => choose(state.run, byId("iteration").selectedIndex));
  byId("status").addEventListener("change", filter);
  byId("flips-only").addEventListener("change", filter);
  let waiting;
  byId("q").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  byId("previous").addEventListener("click", turnPage(-1));
  byId("next").addEventListener("click", turnPage(1));
  byId("rows").addEventListener("keydown", (e) => {
    if (e.key !== "Enter" || !e.target.matches(".open-row")) return;
    e.preventDefault();
    open(Number(e.target.dataset.sample), true);
  });
  document.addEventListener("keydown", onKey);
  addEventListener("hashchange", follow);
  const retrospective = Math.max(
    0,
    data.runs.findIndex((r) => r.name === "retrospective"),
  );
  choose(retrospective, data.runs[retrospective].iterations.length - 1);
  if (!follow() && state.matching.length > 0) {
    state.selected = state.matching[0];
    detail(state.selected);
    drawRows();
  }
})();
