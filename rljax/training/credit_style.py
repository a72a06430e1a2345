"""The style sheet and the script of credit.html."""

STYLE = """
main { max-width: 1280px; } :root { --up: 36, 102, 201; --down: 214, 92, 20; }
#bar { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap;
  gap: 6px 14px; align-items: center; padding: 10px 0; background: var(--page);
  border-bottom: 1px solid var(--rule); font-size: 13.5px; }
.pick { display: flex; flex-wrap: wrap; }
.pick input { position: absolute; opacity: 0; }
.pick span { display: block; padding: 4px 12px; border: 1px solid var(--rule);
  margin-left: -1px; background: var(--card); cursor: pointer; }
.pick label:first-child span { border-radius: 8px 0 0 8px; }
.pick label:last-child span { border-radius: 0 8px 8px 0; }
.pick input:checked + span { background: var(--mark); font-weight: 600; }
.pick input:focus-visible + span { outline: 2px solid var(--c0); z-index: 1;
  position: relative; }
.scale { display: flex; align-items: center; gap: 6px;
  font-variant-numeric: tabular-nums; }
#ramp { display: block; width: 150px; height: 12px; border-radius: 3px;
  border: 1px solid var(--rule); }
.moved td { font-size: 13px; vertical-align: top; } .moved td.w { width: 90px; }
.moved td.w .bar { margin-top: 6px; } .moved .where { white-space: nowrap; width: 1%; }
.words { font: 12.5px/1.55 ui-monospace, Menlo, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; white-space: pre-wrap; }
.go { cursor: pointer; color: inherit; text-decoration: underline dotted; }
b.up, td.up { color: rgb(var(--up)); } b.down, td.down { color: rgb(var(--down)); }
@media (prefers-color-scheme: dark) { :root { --up: 116, 169, 255;
  --down: 255, 157, 92; } }
.bar.up i { background: rgb(var(--up)); } .bar.down i { background: rgb(var(--down)); }
.tables { grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); }
.problem { margin: 0 0 26px; } .problem > h3 { margin: 22px 0 4px;
  overflow-wrap: anywhere; }
.prompt { padding: 8px 12px; border-left: 3px solid var(--rule); margin-bottom: 10px; }
.pair { display: grid; gap: 14px; align-items: start; }
.pair.n2 { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
.side { display: grid; gap: 10px; grid-template-columns: minmax(0, 1fr); }
.answer { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 8px 14px 12px; border-top: 3px solid var(--bad); }
.answer.of-won { border-top-color: var(--good); }
.answer header { display: flex; flex-wrap: wrap; gap: 0 10px; align-items: center;
  min-height: 40px; }
.ends { margin-left: auto; font-size: 12px; white-space: nowrap; }
.vline { width: 150px; height: 34px; flex: none; color: var(--c7); }
.vline polyline { fill: none; stroke: currentColor; stroke-width: 1.5; }
.vline circle { fill: var(--bad); } .of-won .vline circle { fill: var(--good); }
.srow { display: grid; grid-template-columns: 78px minmax(0, 1fr); gap: 12px;
  border-top: 1px solid var(--rule); padding: 5px 0; scroll-margin-top: 80px; }
.srow.here { outline: 2px solid var(--c0); outline-offset: 2px; border-radius: 4px; }
.gain { font-size: 12px; line-height: 1.35; font-variant-numeric: tabular-nums; }
.gain .bar { height: 5px; margin: 1px 0 2px; }
.toks { font: 13.5px/1.75 ui-monospace, Menlo, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.toks i { font-style: normal; border-radius: 2px; padding: 2px 0; }
.toks i.t { cursor: default; } .toks i.t:hover { outline: 1.5px solid var(--ink); }
.toks i.o { color: var(--soft); } .toks u { text-decoration: none; opacity: .45; }
#tip { z-index: 3; max-width: 320px; } #tip table { width: auto; }
#tip td { border: 0; padding: 0 14px 0 0; } #tip td.n { width: auto; padding: 0; }
#tip b { font-family: ui-monospace, Menlo, "DejaVu Sans Mono", monospace; }
#tip tr.on { font-weight: 600; }
@media (max-width: 760px) { .pair.n2 { grid-template-columns: minmax(0, 1fr); }
  #bar { position: static; }  }
"""

SCRIPT = """
(() => {
  const data = JSON.parse(document.getElementById("credit").textContent);
  const byName = Object.fromEntries(data.columns.map(c => [c.name, c]));
  const box = document.getElementById.bind(document);
  const short = x => x === null ? "-" : Number(x.toPrecision(3)).toString();
  // Up in one colour, down in the other; columns of one side in the first.
  const colour = (c, x) => {
    if (x === null) return "";
    let at = (x - c.low) / ((c.high - c.low) || 1);
    if (c.signed || c.value) at = 2 * at - 1;
    else if (c.high === 0) at = at - 1;
    at = Math.max(-1, Math.min(1, at));
    const alpha = (0.72 * Math.abs(at)).toFixed(3);
    return `rgba(var(--${at < 0 ? "down" : "up"}), ${alpha})`;
  };
  const tokens = [...document.querySelectorAll("article .t")].map(t =>
    [t, data.answers[t.closest("article").dataset.a], +t.dataset.i]);
  let now = null;
  const show = name => {
    now = byName[name];
    for (const [t, answer, i] of tokens)
      t.style.background = colour(now, answer.columns[name][i]);
    const stops = [0, .25, .5, .75, 1].map(s =>
      colour(now, now.low + s * (now.high - now.low)));
    box("ramp").style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
    box("low").textContent = short(now.low);
    box("high").textContent = short(now.high);
    box("about").textContent = now.about;
  };
  for (const input of document.querySelectorAll("input[name=column]")) {
    input.addEventListener("change", () => show(input.value));
    if (input.checked) show(input.value);
  }
  const tip = () => box("tip");  // stands after this script
  const row = (table, name, value, on) => {
    const line = table.insertRow();
    if (on) line.className = "on";
    line.insertCell().textContent = name;
    const cell = line.insertCell();
    cell.className = "n"; cell.textContent = value;
  };
  document.addEventListener("mouseover", event => {
    const t = event.target.closest && event.target.closest("article .t");
    if (!t) { if (event.target.closest("main")) tip().style.display = "none"; return; }
    const answer = data.answers[t.closest("article").dataset.a], i = +t.dataset.i;
    const head = document.createElement("b"), table = document.createElement("table");
    head.textContent = JSON.stringify(t.textContent.replace(/\\u21b5/g, "\\n"));
    row(table, "token", answer.ids[i]);
    row(table, "step", answer.step[i]);
    for (const c of data.columns)
      row(table, c.title, short(answer.columns[c.name][i]), c === now);
    tip().replaceChildren(head, table);
    tip().style.display = "block";
    const at = t.getBoundingClientRect(), tall = tip().offsetHeight;
    const x = Math.min(at.left, innerWidth - tip().offsetWidth - 8);
    const below = at.bottom + 8 + tall < innerHeight;
    tip().style.left = Math.max(8, x) + "px";
    tip().style.top = (below ? at.bottom + 8 : at.top - 8 - tall) + "px";
  });
  const go = link => {
    for (const old of document.querySelectorAll(".here")) old.classList.remove("here");
    const to = box(link.dataset.to);
    to.classList.add("here");
    to.scrollIntoView({ block: "center" });
  };
  for (const link of document.querySelectorAll(".go")) {
    link.addEventListener("click", () => go(link));
    link.addEventListener("keydown", e => { if (e.key === "Enter") go(link); });
  }
})();
"""
