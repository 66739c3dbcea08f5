"""How a report looks: one style sheet for screen (light and dark, as the reader's system has it) and paper (light)."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root{color-scheme:light;--paper:#fff;--panel:#f6f7f9;--ink:#1b1f24;--soft:#5b6470;--rule:#d9dde3;--grid:#e6e9ee;
--good:#12703f;--good-bg:#e5f4ec;--bad:#b3201f;--bad-bg:#fdebea;--truth:#9db4cc;
--c0:#1f6fb2;--c1:#d97706;--c2:#1d8f6d;--c3:#8250c4;--c4:#b5487b;--c5:#6b7280}
@media screen and (prefers-color-scheme:dark){:root{color-scheme:dark;--paper:#14171b;--panel:#1c2127;--ink:#e6e9ed;
--soft:#9aa4b0;--rule:#343b44;--grid:#2a3038;--good:#6ad19b;--good-bg:#16301f;--bad:#ff8078;--bad-bg:#3a1a1a;
--truth:#4d6580;--c0:#5aa9ec;--c1:#f0a24a;--c2:#4fc79f;--c3:#b592f0;--c4:#e386b3;--c5:#9aa4b0}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1180px;margin:0 auto;padding:20px 24px 60px}
h1{font-size:26px;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:19px;margin:34px 0 10px}
h3{font-size:14px;margin:0 0 4px;font-weight:600}
p{margin:6px 0}.soft,figcaption,caption,.none{color:var(--soft)}
.verdict{border-left:6px solid var(--good);background:var(--good-bg);padding:12px 16px;border-radius:4px;margin:14px 0}
.verdict.failed{border-color:var(--bad);background:var(--bad-bg)}
.verdict strong{font-size:18px;color:var(--good)}.verdict.failed strong{color:var(--bad)}
.verdict ul{margin:6px 0 0;padding-left:20px}.verdict li{overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:10px;margin:14px 0;padding:0}
.tiles div{background:var(--panel);border-radius:6px;padding:10px 12px}
.tiles dt{font-size:12.5px;color:var(--soft)}.tiles dd{margin:2px 0 0;font-size:21px;font-variant-numeric:tabular-nums}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr));gap:16px}
figure{margin:0;background:var(--panel);border-radius:6px;padding:12px 12px 8px;min-width:0;break-inside:avoid}
figure svg{display:block;width:100%;height:auto}figcaption{font-size:12.5px;margin-top:2px}
svg text{font-size:11px;fill:var(--soft);font-family:inherit;font-variant-numeric:tabular-nums}
.end{text-anchor:end}.mid{text-anchor:middle}
.grid{stroke:var(--grid)}.axis{stroke:var(--soft);fill:none}
.line{fill:none;stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}.area{stroke:none;opacity:.85}.area.faint{opacity:.3}
.limit{stroke:var(--ink);stroke-dasharray:5 4;fill:none}
.s0{--c:var(--c0)}.s1{--c:var(--c1)}.s2{--c:var(--c2)}.s3{--c:var(--c3)}.s4{--c:var(--c4)}.s5{--c:var(--c5)}
.line{stroke:var(--c)}.broad{stroke-width:5;opacity:.45}.area{fill:var(--c)}
.key{margin-right:12px;white-space:nowrap}.key i{display:inline-block;width:16px;margin-right:5px;vertical-align:middle}
.key .rule{border-top:3px solid var(--c)}.key .rule.limit{border-top:2px dashed var(--ink)}
.key .block{height:10px;background:var(--c)}
.wide{overflow-x:auto}.pair tbody th{min-width:25ch}
table{border-collapse:collapse;width:100%;font-size:13.5px;margin:4px 0 14px;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:4px 0;font-size:13px}
th,td{text-align:left;padding:4px 10px 4px 0;border-bottom:1px solid var(--rule);vertical-align:top;
overflow-wrap:anywhere}
thead th{color:var(--soft);font-weight:600;font-size:12.5px}tbody th{font-weight:500}
.n{text-align:right;white-space:nowrap}td:last-child.n,th:last-child.n{padding-right:0}
.n+td:not(.n),.n+th:not(.n){padding-left:12px}
.bad{color:var(--bad);font-weight:600}.good{color:var(--good);font-weight:600}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));gap:0 28px}
.time{table-layout:fixed}.time td,.time th{padding-top:2px;padding-bottom:2px;vertical-align:middle;font-size:12.5px}
.time thead th{white-space:normal;position:sticky;top:0;background:var(--paper);z-index:1}
.time svg{display:block;width:100%;height:16px;overflow:visible}
.time thead svg text{font-size:11px}
.truth{fill:var(--truth)}.missed .truth{fill:var(--bad)}.quiet .truth{fill:var(--c5);opacity:.5}
.alarm{stroke:var(--c0);stroke-width:2}.mark{fill:var(--c0)}
.false .alarm{stroke:var(--bad)}.false .mark{fill:var(--bad)}
details summary{cursor:pointer;color:var(--soft);margin:6px 0}
@media print{body{font-size:11px}main{max-width:none;padding:0}.plots{grid-template-columns:1fr 1fr}
h2,h3,caption{break-after:avoid}
tr{break-inside:avoid}thead{display:table-header-group}.time thead th{position:static}.wide{overflow:visible}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""
