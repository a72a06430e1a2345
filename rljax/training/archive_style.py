"""The style sheet and the script of archive.html."""

STYLE = """
main { max-width: 1180px; }
#bar { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap;
  gap: 8px 14px; align-items: center; padding: 10px 0; background: var(--page);
  border-bottom: 1px solid var(--rule); margin-bottom: 14px; font-size: 13.5px; }
#find { font: inherit; color: inherit; background: var(--card); padding: 5px 10px;
  border: 1px solid var(--rule); border-radius: 8px; width: min(320px, 60%); }
#bar button { font: inherit; color: inherit; background: var(--card); cursor: pointer;
  border: 1px solid var(--rule); border-radius: 8px; padding: 5px 12px; }
details.problem { background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px; margin: 0 0 12px; border-left: 4px solid var(--rule); }
details.problem.only { border-left-color: var(--good); }
.problem > summary { display: flex; flex-wrap: wrap; gap: 2px 16px; padding: 10px 14px;
  align-items: baseline; list-style-position: inside; }
.problem > summary b { overflow-wrap: anywhere; }
.problem > summary .soft { font-size: 13px; font-variant-numeric: tabular-nums; }
.inside { padding: 0 14px 14px; }
.asked { padding: 8px 12px; border-left: 3px solid var(--rule); margin: 2px 0 10px; }
.asked + details { margin: -4px 0 12px; font-size: 13px; }
.tag { font-size: 11.5px; border-radius: 20px; padding: 1px 9px; white-space: nowrap;
  border: 1px solid currentColor; font-family: system-ui, sans-serif; }
.tag.good { color: var(--good); } .tag.bad { color: var(--bad); }
.tag.human { color: var(--c3); } .tag.canonical { color: var(--c4); }
.tag.promote { color: var(--c0); }
.row { display: grid; gap: 4px 16px; padding: 6px 0; align-items: start;
  border-top: 1px solid var(--rule);
  grid-template-columns: minmax(0, 1fr) 78px 132px 52px 52px; }
.row.head { border: 0; color: var(--soft); font-size: 12.5px; padding-bottom: 2px; }
.row > .n { text-align: right; font-size: 13px; font-variant-numeric: tabular-nums; }
.row .bar, .row .bar i { height: 5px; } .row .bar { margin-top: 3px; }
.row .bar.right i { background: var(--good); }
.row:hover:not(.head) { background: var(--mark); }
.said { padding-left: calc(18px * var(--deep)); min-width: 0; }
.said > div { border-left: 2px solid var(--rule); padding-left: 10px; }
.said pre { unicode-bidi: isolate; font-size: 13px; }
.said u, .asked u { text-decoration: none; opacity: .4; }
.said small { color: var(--soft); display: flex; flex-wrap: wrap; gap: 2px 10px;
  align-items: center; margin-top: 2px; }
.row.bare { font-size: 13.5px; }
.row.forbid pre { text-decoration: line-through; opacity: .6; }
@media (max-width: 720px) { #bar { position: static; }
  .row { grid-template-columns: repeat(4, minmax(0, 1fr)); }
  .row > .said { grid-column: 1 / -1; padding-left: calc(8px * var(--deep)); }
  .row.head .said { display: none; } .row > .n { text-align: left; } }
"""

SCRIPT = """
(() => {
  const all = [...document.querySelectorAll("details.problem")];
  const find = document.getElementById("find"), open = document.getElementById("open");
  const count = document.getElementById("shown");
  const look = () => {
    const words = find.value.toLowerCase();
    let shown = 0;
    for (const one of all) {
      one.hidden = !one.textContent.toLowerCase().includes(words);
      shown += !one.hidden;
    }
    count.textContent = shown + " of " + all.length + " shown";
  };
  find.addEventListener("input", look);
  open.addEventListener("click", () => {
    const to = all.some(one => !one.hidden && !one.open);
    for (const one of all) if (!one.hidden) one.open = to;
  });
  look();
})();
"""
