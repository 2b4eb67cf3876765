"""Style and script of the page of records: one accent, light and dark, and sorting by a click."""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #1c1d1a; --soft: #69675f; --rule: #e4e1d8;
  --wash: #f3f1ea; --accent: #0a6b4b; }
@media (prefers-color-scheme: dark) { :root { --paper: #141512; --ink: #eceae3; --soft: #a09d92;
  --rule: #2f302b; --wash: #1c1d19; --accent: #62c99c; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums lining-nums; overflow-wrap: break-word; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 28px 72px; }
h1, h2, h3 { font-family: ui-serif, Charter, "Iowan Old Style", Georgia, "Times New Roman", serif;
  font-weight: 500; line-height: 1.2; letter-spacing: -0.01em; margin: 0; }
h1 { font-size: 17px; color: var(--soft); }
h2 { font-size: 25px; margin: 60px 0 6px; }
h3 { font-size: 17px; margin: 0 0 8px; }
p { margin: 0 0 10px; max-width: 68ch; }
a { color: var(--accent); text-underline-offset: 3px; text-decoration-thickness: 1px; }
.soft, .unit, figcaption, caption { color: var(--soft); }
.unit { font-weight: 400; }
.hero { padding: 30px 0 26px; border-bottom: 1px solid var(--rule); }
.hero .score { font-family: ui-serif, Charter, "Iowan Old Style", Georgia, "Times New Roman", serif;
  font-size: clamp(62px, 13vw, 128px); line-height: 1; letter-spacing: -0.035em; color: var(--accent);
  margin: 4px 0 2px -4px; }
.hero .score small { font-family: system-ui, sans-serif; font-size: 17px; letter-spacing: 0;
  color: var(--soft); margin-left: 8px; white-space: nowrap; }
.hero .what { font-size: 19px; margin-bottom: 20px; }
.facts { display: flex; flex-wrap: wrap; gap: 14px 40px; margin: 0; }
.facts dt { color: var(--soft); font-size: 13px; }
.facts dd { margin: 0; font-size: 16px; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding: 0 0 12px; }
th, td { text-align: right; padding: 9px 9px; vertical-align: baseline; white-space: nowrap; }
th { white-space: normal; }
td:first-child, td.text { white-space: normal; overflow-wrap: anywhere; }
.board td:first-child { min-width: 170px; }
.board td.text:nth-last-child(2) { min-width: 150px; font-size: 13px; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
thead th { font-weight: 400; font-size: 13px; color: var(--soft); border-bottom: 1px solid var(--ink);
  vertical-align: bottom; line-height: 1.3; }
tbody td { border-bottom: 1px solid var(--rule); }
td.text, th.text { text-align: left; }
td .sub { display: block; font-size: 13px; font-weight: 400; color: var(--soft); }
.whole { white-space: nowrap; }
td.bpb { font-size: 18px; font-weight: 600; }
tr.best td.bpb { color: var(--accent); }
th button { all: unset; cursor: pointer; display: inline-block; }
th button:hover, th button:focus-visible { color: var(--ink); text-decoration: underline;
  text-underline-offset: 3px; }
th[aria-sort=ascending] button::after { content: " \\2191"; color: var(--accent); }
th[aria-sort=descending] button::after { content: " \\2193"; color: var(--accent); }
.tag { display: inline-block; font-size: 12px; border: 1px solid var(--rule); border-radius: 3px;
  padding: 0 6px; color: var(--soft); white-space: nowrap; }
.tag.loud { border-color: var(--ink); color: var(--ink); font-weight: 600; }
.tag.good { border-color: var(--accent); color: var(--accent); }
details.entry { border-bottom: 1px solid var(--rule); scroll-margin-top: 12px; }
details.entry > summary { cursor: pointer; display: flex; align-items: baseline; gap: 4px 14px;
  flex-wrap: wrap; padding: 15px 0; list-style: none; }
details.entry > summary::-webkit-details-marker { display: none; }
details.entry > summary::before { content: "+"; color: var(--accent); width: 12px; font-size: 19px;
  line-height: 1; flex: none; }
details.entry[open] > summary::before { content: "\\2212"; }
summary .name { font-size: 17px; font-weight: 600; }
summary .right { margin-left: auto; white-space: nowrap; }
.inside { padding: 2px 0 40px 26px; }
.grid2, .grid3 { display: grid; grid-template-columns: 1fr 1fr; gap: 34px 48px; margin-top: 30px; }
.grid3 { grid-template-columns: repeat(3, 1fr); gap: 30px 40px; margin-top: 18px; }
.grid2 > *, .grid3 > * { min-width: 0; }
.block { margin-top: 34px; max-width: 760px; }
.block table + p { margin-top: 10px; }
figure { margin: 0; }
figcaption { font-size: 13px; margin-top: 6px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .axis { fill: var(--soft); font-size: 9px; }
.grid3 svg .axis { font-size: 12px; }
svg .line { fill: none; stroke: var(--accent); stroke-width: 1.8; stroke-linejoin: round; }
svg .line.dim { stroke: var(--soft); stroke-width: 1.2; opacity: 0.75; }
svg .dot { fill: var(--paper); stroke: var(--accent); stroke-width: 1.6; }
svg .bar { fill: var(--accent); opacity: 0.8; }
svg .mark { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 3 3; }
.sparks { display: grid; grid-template-columns: repeat(4, 1fr); gap: 22px; margin-top: 14px; }
.sparks figcaption { margin-top: 4px; }
.scroll { overflow-x: auto; }
.budget { display: flex; height: 18px; gap: 2px; margin: 4px 0 14px; }
.budget span { background: var(--accent); min-width: 2px; }
.bar-track { display: block; height: 4px; background: var(--rule); margin-top: 6px; }
.bar-track span { display: block; height: 4px; background: var(--accent); }
.small { max-width: 760px; }
.small td, .small th { padding: 5px 10px; font-size: 14px; }
.small td:first-child { overflow-wrap: break-word; }
.small th:first-child, .small td:first-child { padding-left: 0; }
.small thead th { border-bottom: 1px solid var(--rule); font-size: 13px; }
.small tbody tr:last-child td { border-bottom: 0; }
.swatch { display: inline-block; width: 9px; height: 9px; background: var(--accent); margin-right: 8px; }
.note { border-left: 2px solid var(--accent); padding-left: 12px; }
footer { margin-top: 64px; color: var(--soft); font-size: 13px; }
@media (max-width: 760px) {
  main { padding: 24px 16px 56px; }
  h2 { margin-top: 46px; }
  .hero { padding-top: 18px; }
  .facts { display: grid; grid-template-columns: 1fr 1fr; gap: 14px 18px; }
  .board, .board tbody, .board tr, .board td, .board caption { display: block; }
  .board thead { display: block; padding-bottom: 4px; border-bottom: 1px solid var(--ink); }
  .board thead tr { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: baseline; }
  .board thead th { display: none; border: 0; padding: 2px 0; }
  .board thead th:has(button) { display: block; }
  .board thead th .unit, .board thead br { display: none; }
  .board thead tr::before { content: "sort by"; font-size: 13px; color: var(--soft); }
  .board thead th button { text-decoration: underline; text-decoration-color: var(--rule);
    text-underline-offset: 3px; }
  .board tbody tr { display: grid; grid-template-columns: 1fr 1fr; gap: 1px 18px; padding: 14px 0;
    border-bottom: 1px solid var(--rule); }
  .board tbody td { display: flex; justify-content: space-between; gap: 10px; border: 0; padding: 1px 0;
    font-size: 14px; text-align: right; }
  .board tbody td:first-child { display: block; grid-column: 1 / -1; font-size: 16px; text-align: left; }
  .board tbody td.bpb { grid-column: 1 / -1; font-size: 26px; justify-content: flex-start;
    align-items: baseline; gap: 8px; }
  .board tbody td.bpb::before { display: none; }
  .board tbody td.bpb::after { content: "bits per byte"; font-size: 13px; font-weight: 400;
    color: var(--soft); }
  .board tbody td.wide { grid-column: 1 / -1; order: 9; }
  .board tbody td::before { content: attr(data-label); color: var(--soft); text-align: left;
    white-space: nowrap; }
  .board tbody td:first-child::before, .board tbody td.none { display: none; }
  .inside { padding-left: 0; }
  .grid2, .grid3 { grid-template-columns: 1fr; }
  .sparks { grid-template-columns: 1fr 1fr; }
  svg .axis, .grid3 svg .axis { font-size: 11px; }
  .stages th:nth-child(4), .stages td:nth-child(4) { display: none; }
  .small td, .small th { padding: 5px 5px; font-size: 13px; white-space: normal; }
  summary .right { margin-left: 0; width: 100%; padding-left: 26px; }
}
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.board")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.dataset.kind === undefined) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1, text = head.dataset.kind === "text";
      const key = row => row.cells[column].dataset.value ?? "";
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const x = key(a), y = key(b);
        if (x === "" || y === "") return (x === "") - (y === "");
        return sign * (text ? x.localeCompare(y) : x - y);
      });
      table.tBodies[0].append(...rows);
    });
  });
}
const openEntry = () => {
  const entry = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (entry && entry.tagName === "DETAILS") { entry.open = true; entry.scrollIntoView(); }
};
addEventListener("hashchange", openEntry);
openEntry();
if (document.querySelector("meta[http-equiv=refresh]")) {
  const store = "open entries", all = [...document.querySelectorAll("details.entry")];
  const open = JSON.parse(sessionStorage.getItem(store) || "[]");
  all.forEach(entry => { entry.open = entry.open || open.includes(entry.id); });
  addEventListener("pagehide", () => {
    sessionStorage.setItem(store, JSON.stringify(all.filter(entry => entry.open).map(entry => entry.id)));
  });
}
"""
