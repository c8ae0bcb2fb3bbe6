"""The page's HTML, style and script; words between `@@` are filled in by `page`."""

from __future__ import annotations

HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; img-src data: blob:">
<meta name="color-scheme" content="light dark">
<title>@@TITLE@@</title>
<style>@@STYLE@@</style>
</head>
<body>
<main>
<header>
<h1>@@TITLE@@</h1>
<ul class="facts">@@FACTS@@</ul>
</header>
<section class="card">
<div class="bar">
<h2>Validation accuracy over MACs</h2>
<div class="switch" role="group" aria-label="axis of MACs">
<button type="button" data-axis="linear">linear</button>
<button type="button" data-axis="log">log</button>
</div>
</div>
<div id="plot"></div>
<p class="hint">Point at a network to see its stages, click to mark its row below. Drag to zoom,
double-click to go back. The legend hides and shows what it names. @@BELOW@@</p>
</section>
<section class="card">
<h2>The networks</h2>
<div class="scroll">
<table>
<thead><tr>@@HEAD@@</tr></thead>
<tbody>
@@BODY@@
</tbody>
</table>
</div>
@@SUMMARY@@
</section>
<section class="card">
<h2>How it was made</h2>
<dl>@@ABOUT@@</dl>
<h2>How to read an architecture</h2>
<p><code>p2 | 16x2 LG w2 sr8 cpe mlp4 | ...</code>: patches of 2 px, then the stages between bars.
<code>16x2</code>: 16 channels, 2 blocks. <code>LG</code>: the blocks' attention in turns,
<code>L</code> inside windows, <code>S</code> inside shifted windows, <code>G</code> global on
sub-sampled keys. <code>w2</code>: windows of 2 x 2 tokens. <code>sr8</code>: sub-sampling ratio 8.
<code>cpe</code>: positional encoding. <code>mlp4</code>: hidden width over channels. Numbers with
commas between them belong to the blocks that use them, in order.</p>
</section>
</main>
<script>@@PLOTLY@@</script>
<script>const page = @@DATA@@;
@@SCRIPT@@</script>
</body>
</html>
"""

STYLE = """
:root { --back: #f4f6f8; --card: #fff; --ink: #17222d; --soft: #5b6875; --line: #dfe5ea;
  --grid: #e9edf1; --front: #1f5fa8; --named: #c2410c; --test: #0f766e; --dot: #94a3b3;
  --mark: #fdf0e7; --over: #eef3f8; }
@media (prefers-color-scheme: dark) {
  :root { --back: #10161c; --card: #182028; --ink: #e6ebf0; --soft: #9aa8b5; --line: #2c3844;
    --grid: #25303a; --front: #6db0ff; --named: #ff9a5c; --test: #4fd1c0; --dot: #6c7b8a;
    --mark: #35261b; --over: #202b36; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 20px 40px; }
h1 { margin: 0 0 8px; font-size: 22px; line-height: 1.25; letter-spacing: -.01em; }
h2 { margin: 0; font-size: 14px; font-weight: 650; }
p, dl { margin: 8px 0 0; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 0; padding: 0; list-style: none;
  color: var(--soft); }
.facts b { color: var(--ink); font-weight: 650; }
.card { margin-top: 16px; padding: 14px 18px 16px; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; }
.bar { display: flex; justify-content: space-between; align-items: center; }
#plot { width: 100%; height: 470px; }
.hint { margin: 2px 0 0; color: var(--soft); font-size: 12.5px; }
.switch { display: flex; border: 1px solid var(--line); border-radius: 7px; overflow: hidden; }
.switch button { padding: 3px 12px; border: 0; background: none; color: var(--soft);
  font: inherit; font-size: 12.5px; cursor: pointer; }
.switch button.on { background: var(--front); color: var(--card); }
.scroll { overflow-x: auto; margin: 8px -4px 0; }
table { width: 100%; border-collapse: collapse; font-size: 13px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 8px; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: 12px; }
th.left, td.left { text-align: left; }
td small { display: block; color: var(--soft); font-size: 11.5px; line-height: 1.3; }
td.arch { min-width: 300px; white-space: normal; }
td.arch, code { font: 11.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono",
  monospace; }
td.arch span { display: inline-block; margin-right: 6px; white-space: nowrap; }
tr.base td { background: var(--mark); }
tr.off td { color: var(--soft); }
tbody tr:hover td, tr.hit td { background: var(--over); }
tr.hit td:first-child { box-shadow: inset 3px 0 var(--front); }
td b { color: var(--named); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin-bottom: 16px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media print { .switch, .hint { display: none; } body { background: #fff; } }
"""

SCRIPT = """
const plot = document.getElementById("plot");
const buttons = document.querySelectorAll("[data-axis]");
const dark = window.matchMedia("(prefers-color-scheme: dark)");
let axis = page.axis;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

function traces() {
  return page.traces.map((given) => {
    const trace = structuredClone(given);
    const own = colour(trace.meta.colour);
    if (trace.line) trace.line.color = own;
    if (trace.marker) trace.marker.color = own;
    if (trace.error_y) trace.error_y.color = own;
    if (trace.textfont) trace.textfont.color = own;
    if (trace.marker && trace.marker.line) trace.marker.line.color = own;
    return trace;
  });
}

function layout() {
  const ink = colour("ink"), soft = colour("soft"), grid = colour("grid"), card = colour("card");
  const line = {gridcolor: grid, linecolor: colour("line"), tickcolor: grid, zeroline: false,
    tickfont: {color: soft}};
  const font = getComputedStyle(document.body).fontFamily;
  return {
    paper_bgcolor: card, plot_bgcolor: card, font: {color: ink, family: font, size: 13},
    margin: {l: 58, r: 14, t: 34, b: 48}, hovermode: "closest", dragmode: "zoom",
    legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: {color: soft, size: 12}},
    xaxis: {...line, type: axis, title: {text: "MACs (M)", font: {size: 13}}, ...page.ticks[axis]},
    yaxis: {...line, title: {text: "validation top-1 (%)", font: {size: 13}}, range: page.range},
    hoverlabel: {bgcolor: card, bordercolor: colour("line"), align: "left", namelength: 0,
      font: {color: ink, family: font, size: 12.5}},
  };
}

function draw() {
  const options = {responsive: true, displaylogo: false, displayModeBar: false};
  Plotly.react(plot, traces(), layout(), options);
  buttons.forEach((button) => button.classList.toggle("on", button.dataset.axis === axis));
}

buttons.forEach((button) => button.addEventListener("click", () => {
  axis = button.dataset.axis;
  draw();
}));
dark.addEventListener("change", draw);
draw();
plot.on("plotly_click", (event) => {
  const number = event.points[0].customdata;
  if (number === undefined || number === null) return;
  document.querySelectorAll("tr.hit").forEach((row) => row.classList.remove("hit"));
  document.getElementById("row-" + number).classList.add("hit");
});
"""
