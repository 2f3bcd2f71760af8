// The scatter of all segments: every point is drawn, whatever their number.
"use strict";
(async () => {
  const box = document.getElementById("scatter");
  if (!box) return;
  const canvas = box.querySelector("canvas"), log = document.getElementById("log");
  const buffer = await (await fetch(box.dataset.points)).arrayBuffer();
  const n = new DataView(buffer).getUint32(0, true);
  const x = new Float32Array(buffer, 4, n), y = new Float32Array(buffer, 4 + 4 * n, n), row = new Uint32Array(buffer, 4 + 8 * n, n);
  const bounds = (values) => {
    const sorted = Float32Array.from(values).sort();
    return [sorted[0] ?? 0, sorted[Math.max(0, Math.floor(0.995 * (n - 1)))] ?? 1, sorted[n >> 1] ?? 1];
  };
  const bx = bounds(x), by = bounds(y);
  let low = Math.min(bx[0], by[0]), high = Math.max(bx[1], by[1]);
  if (high <= low) high = low + 1;
  log.disabled = low <= 0;
  log.checked = low > 0 && high / Math.min(bx[2], by[2]) > 12;
  const L = 46, T = 10, B = 34, R = 10, H = 300;
  let W = 0, grid = new Map(), drag = null, scale, back;
  const still = document.createElement("canvas"); // the points, while a range is drawn over them

  const setup = () => {
    const f = log.checked ? Math.log : (v) => v, g = log.checked ? Math.exp : (v) => v;
    const a = f(low), b = f(high), w = W - L - R, h = H - T - B;
    const clip = (v) => Math.max(0, Math.min(1, (f(log.checked ? Math.max(v, low) : v) - a) / (b - a)));
    scale = { px: (v) => L + w * clip(v), py: (v) => T + h * (1 - clip(v)) };
    back = { x: (p) => g(a + (b - a) * (p - L) / w), y: (p) => g(a + (b - a) * (1 - (p - T) / h)), tick: (i) => g(a + (b - a) * i / 4) };
  };
  const text = (v) => Math.abs(v) >= 1e4 ? v.toExponential(1) : String(Number(v.toPrecision(3)));

  const draw = () => {
    W = box.clientWidth;
    const d = devicePixelRatio || 1;
    canvas.width = W * d; canvas.height = H * d; canvas.style.height = H + "px";
    const c = canvas.getContext("2d");
    c.scale(d, d);
    setup();
    c.strokeStyle = shoal.css("--line"); c.fillStyle = shoal.css("--soft"); c.font = "11px system-ui, sans-serif";
    for (let i = 0; i < 5; i++) {
      const px = L + (W - L - R) * i / 4, py = T + (H - T - B) * (1 - i / 4);
      c.beginPath(); c.moveTo(px, T); c.lineTo(px, H - B); c.moveTo(L, py); c.lineTo(W - R, py); c.stroke();
      c.textAlign = i === 4 ? "right" : "center"; c.fillText(text(back.tick(i)), px, H - B + 14);
      c.textAlign = "right"; c.fillText(text(back.tick(i)), L - 6, py + 4);
    }
    c.textAlign = "right"; c.fillText(box.dataset.x, W - R, H - 4);
    c.textAlign = "left"; c.fillText(box.dataset.y, L + 4, T + 10);
    c.strokeStyle = shoal.css("--line-strong"); c.beginPath(); c.moveTo(L, H - B); c.lineTo(W - R, T); c.stroke();
    const good = shoal.css("--good"), bad = shoal.css("--bad"), less = box.dataset.worse === "more";
    const size = n > 20000 ? 1.5 : n > 3000 ? 2 : 3.4;
    c.globalAlpha = n > 20000 ? 0.45 : n > 3000 ? 0.6 : 0.75;
    grid = new Map();
    for (const side of [true, false]) {
      c.fillStyle = side ? good : bad;
      for (let i = 0; i < n; i++) {
        if ((less ? y[i] < x[i] : y[i] > x[i]) !== side) continue;
        const px = scale.px(x[i]), py = scale.py(y[i]);
        c.fillRect(px - size / 2, py - size / 2, size, size);
        const cell = (px >> 3) * 4096 + (py >> 3);
        if (!grid.has(cell)) grid.set(cell, i);
      }
    }
    c.globalAlpha = 1;
    still.width = canvas.width; still.height = canvas.height;
    still.getContext("2d").drawImage(canvas, 0, 0);
  };

  const range = () => {
    const c = canvas.getContext("2d"), d = devicePixelRatio || 1;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, canvas.width, canvas.height);
    c.drawImage(still, 0, 0);
    c.scale(d, d);
    c.strokeStyle = shoal.css("--accent"); c.lineWidth = 1.5;
    c.strokeRect(Math.min(drag.from[0], drag.to[0]), Math.min(drag.from[1], drag.to[1]), Math.abs(drag.to[0] - drag.from[0]), Math.abs(drag.to[1] - drag.from[1]));
  };

  const near = (px, py) => {
    let best = -1, least = 80;
    for (let dx = -1; dx < 2; dx++) for (let dy = -1; dy < 2; dy++) {
      const i = grid.get(((px >> 3) + dx) * 4096 + (py >> 3) + dy);
      if (i === undefined) continue;
      const far = (scale.px(x[i]) - px) ** 2 + (scale.py(y[i]) - py) ** 2;
      if (far < least) { least = far; best = i; }
    }
    return best;
  };
  const told = new Map();
  const tell = async (i) => {
    if (!told.has(i)) told.set(i, fetch(box.dataset.api + (box.dataset.api.includes("?") ? "&" : "?") + "row=" + row[i]).then((a) => a.json()));
    return told.get(i);
  };
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  box.append(tip);
  const at = (event) => { const r = canvas.getBoundingClientRect(); return [event.clientX - r.left, event.clientY - r.top]; };
  let hovered = -1;
  canvas.addEventListener("pointerdown", (event) => { drag = { from: at(event), to: null }; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", async (event) => {
    const [px, py] = at(event);
    if (drag && Math.hypot(px - drag.from[0], py - drag.from[1]) > 6) { drag.to = [px, py]; tip.hidden = true; range(); return; }
    const i = near(px, py);
    canvas.style.cursor = i < 0 ? "crosshair" : "pointer";
    if (i === hovered) return;
    hovered = i;
    if (i < 0) { tip.hidden = true; return; }
    const point = await tell(i);
    if (hovered !== i) return;
    tip.textContent = `${point.label}: ${point.value} → ${point.other}${point.verdict ? ", " + point.verdict : ""}, ${point.rows} rows`;
    tip.hidden = false;
    tip.style.left = Math.min(px + 12, W - tip.offsetWidth - 4) + "px"; tip.style.top = py + 14 + "px";
  });
  canvas.addEventListener("pointerup", async (event) => {
    const was = drag;
    drag = null;
    if (was?.to) {
      const query = new URLSearchParams(location.search);
      const xs = [was.from[0], was.to[0]].map(back.x).sort((a, b) => a - b), ys = [was.from[1], was.to[1]].map(back.y).sort((a, b) => a - b);
      const end = W - R - 2;
      query.set("min", xs[0].toPrecision(6));
      if (Math.max(was.from[0], was.to[0]) < end) query.set("max", xs[1].toPrecision(6)); else query.delete("max");
      query.set("omin", ys[0].toPrecision(6));
      if (Math.min(was.from[1], was.to[1]) > T + 2) query.set("omax", ys[1].toPrecision(6)); else query.delete("omax");
      query.delete("page");
      location.search = query;
      return;
    }
    const i = near(...at(event));
    if (i >= 0) location.href = (await tell(i)).href;
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; hovered = -1; });
  log.addEventListener("change", draw);
  document.addEventListener("shoal:theme", draw);
  new ResizeObserver(() => { if (box.clientWidth !== W) draw(); }).observe(box);
  draw();
  box.dataset.drawn = String(n);
})();
