"""What the page of scores adds to the looks of all pages."""

REPORT_STYLE = """
main { max-width:1280px; }
table { border-collapse:collapse; width:100%; font-size:.8rem; font-variant-numeric:tabular-nums; }
th { font-weight:600; text-align:right; padding:6px 6px; border-bottom:1px solid var(--rule); vertical-align:bottom; }
td { text-align:right; padding:7px 6px; border-bottom:1px solid var(--rule); white-space:nowrap; }
th:first-child, td:first-child { text-align:left; padding-left:0; }
td.run, th.run { text-align:left; max-width:15em; overflow:hidden; text-overflow:ellipsis; }
tr:last-child td { border-bottom:0; }
tr.more td { border-top:0; } tr.with-more td { border-bottom:0; }
td svg { display:block; min-width:110px; width:100%; height:20px; }
td.good b { color:var(--right); } td.poor b { color:var(--wrong); } .bad { color:var(--wrong); font-weight:600; }
.better { color:var(--right); } .worse { color:var(--wrong); }
h3 { font-size:1rem; margin:0 0 8px; } .card h3 { overflow-wrap:anywhere; }
.card + h3 { margin-top:28px; }
.maps { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,310px),1fr)); gap:18px; }
.cell.none { fill:none; stroke:var(--rule); stroke-dasharray:3 3; }
.value { font-size:13px; font-weight:620; } .count { font-size:9.5px; }
.answers { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr)); gap:16px; }
.answers article { overflow:hidden; }
.shots { display:flex; flex-wrap:wrap; gap:8px; margin:0 0 10px; align-items:end; }
.shots img { max-width:100%; max-height:150px; border-radius:6px; border:1px solid var(--rule); }
.asked-words, .said-line { white-space:pre-wrap; overflow-wrap:anywhere; margin:0 0 8px; font-size:.9rem; }
.asked-words { max-height:13em; overflow-y:auto; }
.said-line { border-left:3px solid var(--rule); padding-left:9px; }
.said-line.right { border-color:var(--right); } .said-line.wrong { border-color:var(--wrong); }
.said-line small, .truth { font-size:.8rem; color:var(--quiet); }
.said-line i { color:var(--quiet); } .truth { margin:0; overflow-wrap:anywhere; }
details > summary { cursor:pointer; font-weight:600; padding:8px 0; overflow-wrap:anywhere; }
bdi { unicode-bidi:isolate; }
"""
