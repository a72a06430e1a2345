"""The style sheet and the script of report.html, and the page around them."""

import html

_STYLE = """
:root { color-scheme: light dark; --page: #f7f7f5; --card: #fff; --ink: #1d1d1b;
  --soft: #62625e; --rule: #e3e2dd; --mark: #eef3fd; --good: #12805c; --bad: #b3402e;
  --c0: #2466c9; --c1: #c2570c; --c2: #12805c; --c3: #8a3fb5; --c4: #927000;
  --c5: #b3245f; --c6: #0f7c93; --c7: #6b6b66; }
@media (prefers-color-scheme: dark) { :root { --page: #161615; --card: #1f1f1d;
  --ink: #ecebe6; --soft: #a3a29b; --rule: #363633; --mark: #20304a; --good: #4fcf9f;
  --bad: #ff8f7a; --c0: #74a9ff; --c1: #ff9d5c; --c2: #4fcf9f; --c3: #cf92ef;
  --c4: #e0bd4a; --c5: #ff7fb0; --c6: #5cc9e0; --c7: #b0b0a8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 28px 20px 80px; }
h1 { font-size: 26px; margin: 0 0 2px; } h2 { font-size: 19px; margin: 40px 0 10px; }
h3 { font-size: 14px; margin: 20px 0 6px; color: var(--soft); font-weight: 600; }
p { margin: 4px 0 12px; } .soft { color: var(--soft); }
.cards, .charts, .tables { display: grid; gap: 14px; }
.cards { grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); margin: 18px 0; }
.charts { grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); }
.tables { grid-template-columns: repeat(auto-fill, minmax(420px, 1fr)); }
.card, figure, .table, details.episode { background: var(--card); margin: 0;
  border: 1px solid var(--rule); border-radius: 10px; padding: 12px 14px; }
.card b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
figcaption, .table h3 { margin: 0 0 4px; font-size: 14px; font-weight: 600;
  color: var(--ink); overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--rule); } .tick { fill: var(--soft); font-size: 11px; }
.cursor { stroke: var(--soft); stroke-dasharray: 3 3; visibility: hidden; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke: currentColor; }
.dot { fill: currentColor; } .dashed { stroke-dasharray: 5 3; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12.5px;
  color: var(--soft); }
.key { display: inline-block; width: 12px; height: 3px; margin: 0 6px 3px 0;
  border-radius: 2px; background: currentColor; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); }
.c3 { color: var(--c3); } .c4 { color: var(--c4); } .c5 { color: var(--c5); }
.c6 { color: var(--c6); } .c7 { color: var(--c7); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 8px 4px 0; border-top: 1px solid var(--rule); }
th { border: 0; font-weight: 500; color: var(--soft); font-size: 12.5px; }
td.n, th.n { text-align: right; width: 72px; } td.w { width: 130px; }
.bar { display: block; height: 8px; border-radius: 4px; background: var(--rule); }
.bar i { display: block; height: 8px; border-radius: 4px; background: var(--c0); }
.bar.q i { background: var(--c1); }
details.episode { margin: 0 0 10px; } summary { cursor: pointer; }
.step { border-top: 1px solid var(--rule); margin-top: 12px; padding-top: 10px;
  display: grid; gap: 4px 22px; grid-template-columns: minmax(220px, 2fr) 5fr; }
pre { margin: 0; white-space: pre-wrap; font: 12.5px/1.55 ui-monospace, Menlo,
  "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.commands td { font-size: 13px; padding: 2px 10px 2px 0; }
.commands tr.chosen td { background: var(--mark); font-weight: 600; }
.won { color: var(--good); } .lost { color: var(--bad); }
#tip { position: fixed; pointer-events: none; display: none; background: var(--card);
  border: 1px solid var(--rule); border-radius: 8px; padding: 6px 10px;
  font-size: 12.5px; font-variant-numeric: tabular-nums;
  box-shadow: 0 2px 10px #0003; }
@media (max-width: 640px) { .step, .tables { grid-template-columns: 1fr; } }
"""

_SCRIPT = """
const tip = document.getElementById("tip");
for (const svg of document.querySelectorAll("svg[data-lines]")) {
  const data = JSON.parse(svg.dataset.lines), cursor = svg.querySelector(".cursor");
  svg.addEventListener("mouseleave", () => {
    tip.style.display = "none"; cursor.style.visibility = "hidden";
  });
  svg.addEventListener("mousemove", event => {
    const box = svg.getBoundingClientRect(), width = svg.viewBox.baseVal.width;
    const at = (event.clientX - box.left) / box.width * width;
    const share = (at - data.left) / (data.right - data.left);
    const x = data.low + share * (data.high - data.low);
    tip.replaceChildren();
    let nearest = null;
    data.lines.forEach(([name, xs, ys], i) => {
      let best = 0;
      xs.forEach((v, j) => {
        if (Math.abs(v - x) < Math.abs(xs[best] - x)) best = j;
      });
      if (nearest === null) {
        nearest = xs[best];
        const head = document.createElement("div");
        head.textContent = nearest.toLocaleString();
        tip.append(head);
      }
      const row = document.createElement("div"), key = document.createElement("i");
      key.className = "key c" + i % 8;
      row.append(key, name + "  " + ys[best]);
      tip.append(row);
    });
    const span = data.high - data.low || 1;
    const to = data.left + (nearest - data.low) / span * (data.right - data.left);
    cursor.setAttribute("x1", to); cursor.setAttribute("x2", to);
    cursor.style.visibility = "visible";
    tip.style.display = "block";
    const right = event.clientX + 16 + tip.offsetWidth < innerWidth;
    tip.style.left = event.clientX + (right ? 16 : -16 - tip.offsetWidth) + "px";
    tip.style.top = event.clientY + 12 + "px";
  });
}
"""


def page(title: str, body: str) -> str:
    """A whole page around `body`, with everything it needs inside."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f'<body><main>{body}</main><div id="tip"></div>'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )
