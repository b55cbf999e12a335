// Filters, orders and shows transcripts. What was said is only ever put in as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 100;
  const byId = (id) => document.getElementById(id);
  const make = (tag, name, ...children) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const percent = (share) => `${Math.round(100 * share)} %`;

  // What is asked of a transcript, worked out once.
  const items = data.examples.map((example, index) => {
    const p = example.prob_with, alone = example.prob_without, truth = example.label;
    const known = truth !== null;
    const right = p === null || !known ? null : (p > 0.5) === (truth === 1);
    const rightAlone = alone === null || !known ? null : (alone > 0.5) === (truth === 1);
    const won = p === null || p === 0.5 ? null : p > 0.5 ? "correct" : "incorrect";
    const sides = new Map();
    for (const turn of example.turns) if (turn.position) sides.set(turn.side, turn.position);
    const winners = [...sides].filter(([, position]) => position === won).map(([side]) => side);
    const words = example.turns.reduce((sum, turn) => sum + turn.text.split(/\s+/).length, 0);
    let change = null;
    if (right !== null && rightAlone !== null) {
      change = right === rightAlone ? (right ? "left it right" : "left it wrong") : right ? "helped" : "misled";
    }
    const toTruth = (q) => (truth === 1 ? q : 1 - q);
    return {
      index, example, right, rightAlone, words,
      gain: p === null || alone === null || !known ? 0 : toTruth(p) - toTruth(alone),
      sure: p === null ? null : Math.max(p, 1 - p),
      text: [example.question, example.text, ...example.turns.map((turn) => turn.text)].join("\n").toLowerCase(),
      fields: {
        task: [example.task],
        method: [example.method],
        pair: [`${example.weak} > ${example.strong}`],
        seed: [String(example.seed)],
        judge: right === null ? [] : [right ? "right" : "wrong"],
        change: change === null ? [] : [change],
        winner: [...winners, ...(won && sides.size ? [known && (won === "correct") === (truth === 1) ? "honest side" : known ? "dishonest side" : "unknown"] : [])],
        truth: known ? [truth === 1 ? "correct" : "incorrect"] : [],
        verdict: example.verdict ? [example.verdict] : [],
        speaker: [...new Set(example.turns.filter((turn) => turn.position).map((turn) => turn.model))],
      },
    };
  });

  // Filters.
  const selects = [...document.querySelectorAll("label[data-field]")].map((label) => {
    const field = label.dataset.field, select = label.querySelector("select");
    const values = [...new Set(items.flatMap((item) => item.fields[field]))];
    values.sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    select.append(new Option("any", ""), ...values.map((value) => new Option(value, value)));
    label.hidden = values.length < 2;
    return [field, select];
  });
  const ORDERS = {
    given: (a, b) => a.index - b.index,
    surest: (a, b) => (b.sure ?? 0) - (a.sure ?? 0),
    unsure: (a, b) => (a.sure ?? 2) - (b.sure ?? 2),
    helped: (a, b) => b.gain - a.gain,
    misled: (a, b) => a.gain - b.gain,
    longest: (a, b) => b.words - a.words,
  };
  let shown = [], limit = PAGE, current = null, needle = "";

  function filter() {
    needle = byId("search").value.trim().toLowerCase();
    const low = Number(byId("low").value || 50) / 100, high = Number(byId("high").value || 100) / 100;
    const everything = low <= 0.5 && high >= 1;
    const chosen = selects.filter(([, select]) => select.value);
    shown = items.filter((item) =>
      chosen.every(([field, select]) => item.fields[field].includes(select.value)) &&
      (everything || (item.sure !== null && item.sure >= low - 1e-9 && item.sure <= high + 1e-9)) &&
      (!needle || item.text.includes(needle)));
    shown.sort((a, b) => ORDERS[byId("order").value](a, b) || a.index - b.index);
    limit = PAGE;
    list();
    const right = shown.filter((item) => item.right).length;
    const judged = shown.filter((item) => item.right !== null).length;
    byId("number").textContent = `${shown.length} of ${items.length} shown` +
      (judged ? `; the judge is right on ${right} of ${judged} (${percent(right / judged)})` : "");
    if (!shown.includes(current)) read(shown[0] ?? null);
  }

  function list() {
    byId("list").replaceChildren(...shown.slice(0, limit).map((item) => {
      const example = item.example;
      const verdict = item.right === null
        ? make("span", "", item.sure === null ? "not judged" : `${percent(item.sure)} sure`)
        : make("span", item.right ? "good" : "bad", `${item.right ? "right" : "wrong"}, ${percent(item.sure)} sure`);
      const button = make("button", "",
        make("span", "ask", example.question.replace(/\s+/g, " ")),
        make("span", "about", verdict, ` · ${example.method} · ${item.fields.pair[0]} · seed ${example.seed}`));
      button.type = "button";
      button.title = example.question;
      button.setAttribute("aria-current", String(item === current));
      button.addEventListener("click", () => read(item));
      return make("li", "", button);
    }));
    byId("more").hidden = shown.length <= limit;
    byId("more").textContent = `${Math.min(PAGE, shown.length - limit)} more`;
  }

  // Reading.
  function put(parent, text) {
    const pieces = text.split(/(<[vu]_quote>[\s\S]*?<\/[vu]_quote>)/);
    for (const piece of pieces) {
      const quote = piece.match(/^<([vu])_quote>([\s\S]*)<\/[vu]_quote>$/);
      if (!quote) { found(parent, piece); continue; }
      const node = make("q", quote[1] === "v" ? "verified" : "unverified");
      node.title = quote[1] === "v" ? "found in the passage" : "not found in the passage";
      found(node, quote[2]);
      parent.append(node);
    }
    return parent;
  }
  function found(parent, text) {
    if (!needle) { parent.append(text); return; }
    const lower = text.toLowerCase();
    let from = 0;
    for (let at = lower.indexOf(needle); at >= 0; at = lower.indexOf(needle, from)) {
      parent.append(text.slice(from, at), make("mark", "", text.slice(at, at + needle.length)));
      from = at + needle.length;
    }
    parent.append(text.slice(from));
  }
  function judgement(name, probability, right) {
    if (probability === null) return null;
    const said = probability === 0.5 ? "undecided" : probability > 0.5 ? "correct" : "incorrect";
    const row = make("tr", "", make("th", "", name), make("td", "", said),
      make("td", "", `${percent(probability)} that it is correct`),
      make("td", right === null ? "" : right ? "good" : "bad", right === null ? "" : right ? "right" : "wrong"));
    row.firstChild.scope = "row";
    return row;
  }
  function read(item) {
    current = item;
    for (const [place, entry] of [...byId("list").children].entries()) {
      entry.firstChild.setAttribute("aria-current", String(shown[place] === item));
    }
    const reader = byId("reader");
    if (item === null) { reader.replaceChildren(make("p", "", "No transcript is like this.")); return; }
    const { example } = item;
    const several = new Set(example.turns.map((turn) => turn.model)).size > 1;
    const facts = make("p", "facts",
      `Truth: ${example.label === null ? "unknown" : example.label ? "correct" : "incorrect"} · ${example.task}, row ${example.row_id} · ${example.method}, ${item.fields.pair[0]}, seed ${example.seed}`);
    if (data.runs[example.trial_id]) {
      const link = make("a", "", "run in MLflow");
      link.href = data.runs[example.trial_id];
      facts.append(" · ", link);
    }
    const judged = make("table", "judged", make("tbody", "",
      judgement("Judge without it", example.prob_without, item.rightAlone),
      judgement("Judge that read it", example.prob_with, item.right),
      example.verdict ? make("tr", "", make("th", "", "Verdict"), make("td", "", example.verdict)) : null));
    const turns = [];
    const rounds = new Set(example.turns.map((turn) => turn.round));
    const together = example.turns.length > rounds.size && rounds.size > 1;
    let last = null;
    for (const turn of example.turns) {
      if (together && turn.round !== last) turns.push(make("div", "round", `Round ${turn.round + 1}`));
      last = turn.round;
      const who = make("div", "who", make("b", "", turn.side === "judge" ? "Judge asks" : turn.side),
        turn.position ? `, for ${turn.position}` : "", several ? ` · ${turn.model}` : "");
      const box = make("div", `turn ${turn.position || "asks"}`, who, put(make("div", "said"), turn.text));
      if (turn.thinking) box.append(make("details", "", make("summary", "", "hidden thinking"), put(make("div", "said"), turn.thinking)));
      if (turn.candidates.length > 1) {
        box.append(make("details", "", make("summary", "", `best of ${turn.candidates.length}`),
          make("ol", "", ...turn.candidates.map((text) => put(make("li", "said"), text)))));
      }
      turns.push(box);
    }
    if (example.text) turns.push(put(make("div", "said"), example.text));
    reader.replaceChildren(put(make("h2", ""), example.question), facts, judged, ...turns);
    reader.scrollTop = 0;
    history.replaceState(null, "", `#${item.index}`);
  }

  // Keys, and where to begin.
  function step(by) {
    const place = Math.min(Math.max(shown.indexOf(current) + by, 0), shown.length - 1);
    if (place < 0) return;
    if (place >= limit) { limit += PAGE; list(); }
    read(shown[place]);
    const entry = byId("list").children[place];
    entry.firstChild.focus({ preventScroll: true });
    entry.scrollIntoView({ block: "nearest" });
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input, select");
    if (event.key === "/" && !typing) { event.preventDefault(); byId("search").focus(); return; }
    if (event.key === "Escape" && typing) { event.target.blur(); return; }
    const inList = byId("list").contains(event.target);
    const by = { j: 1, k: -1, ...(inList ? { ArrowDown: 1, ArrowUp: -1 } : {}) }[event.key];
    if (by && !typing) { event.preventDefault(); step(by); }
  });
  byId("filters").addEventListener("input", filter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(filter));
  byId("more").addEventListener("click", () => { limit += PAGE; list(); });
  const made = data.counts.reduce((sum, count) => sum + count.num_made, 0);
  const counts = byId("counts");
  counts.querySelector("summary").textContent =
    `${items.length.toLocaleString("en")} of ${made.toLocaleString("en")} transcripts of test rows, drawn at random`;
  counts.querySelector("tbody").append(...data.counts.map((count) => make("tr", "",
    make("th", "", count.task), make("td", "", `${count.weak} > ${count.strong}`), make("td", "", count.method),
    make("td", "", `${count.num_shown.toLocaleString("en")} of ${count.num_made.toLocaleString("en")}`))));
  counts.hidden = !data.counts.length;
  current = items[Number(location.hash.slice(1))] ?? null;
  filter();
  if (current) read(current);
})();
