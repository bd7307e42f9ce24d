"""The looks of the report and of the concept drawings: CSS without outside files, light and dark."""

PAGE_STYLE = """
:root { color-scheme:light dark; --page:#fbfaf8; --card:#fff; --ink:#1d2329; --quiet:#5f6872; --rule:#e2dfd9;
  --accent:#0b5c8a; --series-1:#0b5c8a; --series-2:#b4560b; --right:#1f7a4d; --wrong:#a8432f; }
@media (prefers-color-scheme: dark) { :root { --page:#14171a; --card:#1c2024; --ink:#e8e6e2; --quiet:#9aa4ae;
  --rule:#30363c; --accent:#69b7e3; --series-1:#69b7e3; --series-2:#eba35a; --right:#6fc197; --wrong:#e58e7a; }
  }
* { box-sizing:border-box; }
body { margin:0; background:var(--page); color:var(--ink);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif; }
main { max-width:1080px; margin:0 auto; padding:48px 24px 64px; }
h1 { font-size:2.1rem; line-height:1.15; letter-spacing:-.02em; margin:0 0 .35em; text-wrap:balance; }
h2 { font-size:1.25rem; letter-spacing:-.01em; margin:56px 0 4px; }
p.lead { font-size:1.08rem; color:var(--quiet); max-width:46em; margin:0; }
p.quiet, .quiet { color:var(--quiet); }
h2 + p.quiet { margin:.2em 0 1.2em; max-width:52em; font-size:.94rem; }
.facts { display:grid; grid-template-columns:repeat(auto-fit,minmax(132px,1fr)); margin:32px 0 0; padding:0;
  background:var(--card); border:1px solid var(--rule); border-radius:10px; overflow:hidden; }
.facts div { padding:13px 13px; box-shadow:1px 1px 0 0 var(--rule); }
.facts dt { font-size:.8rem; color:var(--quiet); }
.facts dd { margin:1px 0 0; font-size:1.2rem; font-weight:620; font-variant-numeric:tabular-nums;
  letter-spacing:-.01em; }
.card { background:var(--card); border:1px solid var(--rule); border-radius:10px; padding:18px 20px; }
.wide { overflow-x:auto; }
.charts { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr)); gap:18px; }
.chart { margin:0; }
.chart figcaption { font-weight:620; }
.chart figcaption small { font-weight:400; color:var(--quiet); margin-left:.4em; }
.chart svg { display:block; width:100%; height:auto; margin-top:6px; }
.keys { font-size:.84rem; color:var(--quiet); min-height:1.5em; }
.key { margin-right:1.3em; white-space:nowrap; }
.key i { display:inline-block; width:14px; height:3px; border-radius:2px; vertical-align:middle;
  margin-right:.45em; }
.key b { color:var(--ink); font-weight:600; font-variant-numeric:tabular-nums; }
.key i.dashed { height:0; border-top:2px dashed var(--quiet); }
.grid { stroke:var(--rule); stroke-width:1; }
.axis { stroke:var(--quiet); stroke-width:1; }
.tick { fill:var(--quiet); font-size:11.5px; font-variant-numeric:tabular-nums; }
.target { stroke:var(--quiet); stroke-width:1.2; stroke-dasharray:5 4; }
.line { fill:none; stroke-width:2.2; stroke-linejoin:round; }
.faint { fill:none; stroke-width:1; opacity:.35; }
.dot { stroke:var(--card); stroke-width:1.5; }
.examples { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr)); gap:18px; }
.example .asked { display:grid; grid-template-columns:190px 1fr; gap:18px; margin-bottom:14px; }
.example .pictures { display:grid; gap:8px; align-content:start; }
.example h3 { font-size:1rem; line-height:1.4; margin:2px 0 10px; overflow-wrap:anywhere; }
.task { font-size:.78rem; color:var(--quiet); }
.choices { list-style:none; margin:0 0 10px; padding:0; font-size:.92rem; }
.choices li { padding:1px 0 1px 1.3em; text-indent:-1.3em; color:var(--quiet); }
.choices li::before { content:"○"; display:inline-block; width:1.3em; text-indent:0; }
.choices .said { color:var(--ink); font-weight:600; }
.choices .said::before { content:"●"; }
.said-words { margin:0 0 6px; overflow-wrap:anywhere; }
.said-words b { font-weight:650; }
.verdict { font-size:.9rem; margin:0; overflow-wrap:anywhere; }
.verdict b { font-weight:650; }
.right b { color:var(--right); }
.wrong b { color:var(--wrong); }
.part b { color:var(--series-2); }
.merged { border-top:1px solid var(--rule); padding-top:12px; }
.merged p { margin:0 0 7px; font-size:.8rem; color:var(--quiet); }
footer { margin-top:56px; padding-top:16px; border-top:1px solid var(--rule); font-size:.85rem;
  color:var(--quiet); }
@media (max-width:540px) { main { padding:28px 16px 48px; } .example .asked { grid-template-columns:1fr; }
  .example .pictures { max-width:280px; } h1 { font-size:1.65rem; } }
@media print { .card { break-inside:avoid; } }
"""

# Okabe and Ito's colours for all kinds of sight, darker or lighter so that each keeps a contrast of 3 with the page.
CONCEPT_STYLE = """
:root { --concept-0:#0072b2; --concept-1:#c9680a; --concept-2:#00875f; --concept-3:#b0578d;
  --concept-4:#8a7a00; --concept-5:#5b5fc7; }
@media (prefers-color-scheme: dark) { :root { --concept-0:#56b4e9; --concept-1:#f0a04b; --concept-2:#3cc79a;
  --concept-3:#e08fbf; --concept-4:#d9c93a; --concept-5:#a5a8ff; } }
.concept-picture { margin:0; }
.concept-picture svg { display:block; width:100%; height:auto; border-radius:6px; }
.concept-picture .cell { fill-opacity:.26; }
.concept-picture .cell:hover { fill-opacity:.6; }
.concept-picture .halo { fill:none; stroke:#fff; stroke-width:5.5; stroke-linecap:round; opacity:.9; }
.concept-picture .edge { fill:none; stroke:#14181d; stroke-width:2.4; stroke-linecap:round; }
.concept-picture .close { fill:#14181d; stroke:#fff; stroke-width:2; pointer-events:none; }
.concept-words { display:flex; flex-wrap:wrap; align-items:center; gap:5px 4px; line-height:1.35; font-size:.9rem; }
.concept-words .concept { display:inline-flex; white-space:pre; border-bottom:3px solid var(--c);
  border-radius:3px; background:color-mix(in srgb, var(--c) 13%, transparent); max-width:100%; }
.concept-words .open { border-bottom-style:dashed; }
.concept-words .token { padding:1px 4px; border-right:1px dotted color-mix(in srgb, var(--c) 55%, transparent);
  overflow-wrap:anywhere; white-space:pre-wrap; }
.concept-words .token:last-child { border-right:0; }
.concept-words .closes { border-right:3px solid var(--c) !important; }
.concept-words .special { font-size:.78em; font-style:italic; opacity:.75; align-self:center; }
.concept-words .answer .token { font-weight:650; }
.concept-words .picture-mark { border:1px solid currentColor; border-radius:4px; padding:1px 7px; opacity:.7;
  font-size:.85em; }
"""
