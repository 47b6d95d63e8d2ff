"""How graphs look: the style of their SVG."""

from __future__ import annotations

STYLE = """\
.mbuild-graph{--paper:#fff;--ink:#1f2328;--muted:#59636e;--line:#7d8690;
--given:#7d8690;--given-fill:#fff;--cached:#aab4be;--cached-fill:#f6f8fa;
--run:#0969da;--run-fill:#ddf4ff;--depends:#9a6700;--depends-fill:#fff8c5;
--waited:#7d8690;--waited-fill:#fff;--failed:#cf222e;--failed-fill:#ffebe9;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
@media (prefers-color-scheme:dark){.mbuild-graph{--paper:#0d1117;--ink:#e6edf3;--muted:#9198a1;
--line:#8b949e;--given:#8b949e;--given-fill:#0d1117;--cached:#4b535d;--cached-fill:#161b22;
--run:#4493f8;--run-fill:#0c2d6b;--depends:#d29922;--depends-fill:#3b2300;
--waited:#8b949e;--waited-fill:#0d1117;--failed:#f85149;--failed-fill:#490202}}
.mbuild-graph .paper{fill:var(--paper)}
.mbuild-graph text{fill:var(--ink);font-size:13px}
.mbuild-graph .fact,.mbuild-graph .legend text{fill:var(--muted);font-size:11px}
.mbuild-graph .heading{font-size:15px;font-weight:600}
.mbuild-graph .model .label{font-weight:600}
.mbuild-graph .cached .label{fill:var(--muted)}
.mbuild-graph .ran .fact,.mbuild-graph .running .fact,.mbuild-graph .run .fact,
.mbuild-graph .depends .fact,
.mbuild-graph .failed .fact{fill:var(--ink)}
.mbuild-graph .edge{fill:none;stroke:var(--line);stroke-width:1.25}
.mbuild-graph .head{fill:var(--line)}
.mbuild-graph .box{stroke-width:1.25}
.mbuild-graph .icon{fill:none;stroke-width:1.75;stroke-linecap:round;stroke-linejoin:round}
.mbuild-graph .given .box{fill:var(--given-fill);stroke:var(--given)}
.mbuild-graph .given .icon{stroke:var(--given);stroke-width:1.25}
.mbuild-graph .cached .box{fill:var(--cached-fill);stroke:var(--cached)}
.mbuild-graph .cached .icon{stroke:var(--muted)}
.mbuild-graph .run .box,.mbuild-graph .ran .box{fill:var(--run-fill);stroke:var(--run);
stroke-width:2}
.mbuild-graph .running .box{fill:var(--run-fill);stroke:var(--run);stroke-width:2.5;
stroke-dasharray:10 4}
.mbuild-graph .running .icon{stroke:var(--run)}
.mbuild-graph .run .icon,.mbuild-graph .ran .icon{stroke:var(--run);fill:var(--run)}
.mbuild-graph .depends .box{fill:var(--depends-fill);stroke:var(--depends);stroke-width:1.75;
stroke-dasharray:6 4}
.mbuild-graph .depends .icon{stroke:var(--depends)}
.mbuild-graph .waited .box{fill:var(--waited-fill);stroke:var(--waited);stroke-dasharray:1.5 4;
stroke-linecap:round}
.mbuild-graph .waited .icon{stroke:var(--waited);stroke-width:1.25}
.mbuild-graph .failed .box{fill:var(--failed-fill);stroke:var(--failed);stroke-width:2.5}
.mbuild-graph .failed .icon{stroke:var(--failed)}
@media print{.mbuild-graph{--paper:#fff;--ink:#000;--muted:#444;--line:#555;--given:#555;
--given-fill:#fff;--cached:#999;--cached-fill:#fff;--run:#0550ae;--run-fill:#fff;
--depends:#7d4e00;--depends-fill:#fff;--waited:#555;--waited-fill:#fff;--failed:#a40e26;
--failed-fill:#fff}}
"""
"""How graphs look, light, dark and on paper; a page that shows many has it once."""
