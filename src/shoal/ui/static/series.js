// Series over time: a segment's forecast and what happened, and any chart of numbers.
"use strict";
window.shoalChart = (box, data, lines, { timed = true, bands = [], height = 320 } = {}) => {
  let chart;
  const colour = (name) => shoal.css(name);
  const make = () => {
    chart?.destroy();
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    chart = new uPlot({
      width: box.clientWidth, height,
      scales: { x: { time: timed } },
      axes: [{ ...axis }, { ...axis, size: 56 }],
      legend: { live: true },
      cursor: { drag: { x: true, y: false }, points: { size: 6 } },
      series: [{ label: timed ? "time" : "row" }, ...lines.map((line) => ({
        label: line.label, stroke: line.hidden ? "transparent" : colour(line.colour), width: line.width ?? 1.6, dash: line.dash, points: { show: line.points ?? false, size: 5, fill: colour(line.colour) },
        value: (_, v) => v == null ? "–" : Number(v.toPrecision(5)).toLocaleString("en"),
        paths: line.points === "only" ? () => null : undefined,
      }))],
      bands: bands.map(([upper, lower, name]) => ({ series: [upper, lower], fill: colour(name) + "2e" })),
    }, data, box);
  };
  make();
  document.addEventListener("shoal:theme", make);
  new ResizeObserver(() => { if (chart && box.clientWidth !== chart.width) chart.setSize({ width: box.clientWidth, height }); }).observe(box);
};
(async () => {
  const box = document.getElementById("series");
  if (!box) return;
  const answer = await fetch(box.dataset.series);
  const found = await answer.json();
  box.replaceChildren();
  const say = (words) => box.append(Object.assign(document.createElement("p"), { className: "soft", textContent: words }));
  if (!answer.ok) { say(found.error); return; }
  found.notes.forEach(say);
  if (!found.numeric || !found.t.length) { say("Its rows cannot be drawn as numbers."); return; }
  const data = [found.t, found.actual], lines = [{ label: "actual " + box.dataset.target, colour: "--text", width: 1.3 }], bands = [];
  if (found.forecast) { data.push(found.forecast); lines.push({ label: "version " + box.dataset.version, colour: "--c1", width: 2 }); }
  if (found.upper) {
    data.push(found.upper, found.lower);
    lines.push({ label: `upper ${Math.round(100 * found.cover)}%`, colour: "--c1", hidden: true }, { label: `lower ${Math.round(100 * found.cover)}%`, colour: "--c1", hidden: true });
    bands.push([data.length - 2, data.length - 1, "--c1"]);
  }
  if (found.other) { data.push(found.other); lines.push({ label: "version " + box.dataset.other, colour: "--c2", width: 1.6, dash: [5, 4] }); }
  shoalChart(box, data, lines, { timed: found.timed, bands });
  box.dataset.drawn = "yes";
})();
