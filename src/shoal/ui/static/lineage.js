// The lineage graph: move, zoom, search, and light up what a node comes from and goes to.
"use strict";
(() => {
  const box = document.getElementById("graph");
  if (!box) return;
  const world = document.getElementById("world"), detail = document.getElementById("detail");
  const width = Number(box.dataset.width), height = Number(box.dataset.height);
  const nodes = new Map([...world.querySelectorAll(".node")].map((node) => [node.dataset.name, node]));
  const edges = [...world.querySelectorAll(".edge")];
  const down = new Map(), up = new Map();
  edges.forEach((edge) => {
    const { from, to } = edge.dataset;
    (down.get(from) ?? down.set(from, []).get(from)).push(to);
    (up.get(to) ?? up.set(to, []).get(to)).push(from);
  });
  let x = 0, y = 0, k = 1, frame = 0;
  const apply = () => { frame ||= requestAnimationFrame(() => { frame = 0; world.setAttribute("transform", `translate(${x} ${y}) scale(${k})`); }); };
  box.style.height = Math.round(Math.max(220, Math.min(0.68 * innerHeight, 720, height * Math.min((box.clientWidth - 40) / width, 1.1) + 90))) + "px";
  const fit = () => {
    k = Math.min((box.clientWidth - 40) / width, (box.clientHeight - 40) / height, 1.1);
    k = Math.max(k, 0.05);
    x = (box.clientWidth - width * k) / 2;
    y = (box.clientHeight - height * k) / 2;
    apply();
  };
  const zoom = (factor, px = box.clientWidth / 2, py = box.clientHeight / 2) => {
    const next = Math.min(Math.max(k * factor, 0.05), 3);
    x = px - (px - x) * next / k;
    y = py - (py - y) * next / k;
    k = next;
    apply();
  };
  const centre = (name) => {
    const at = nodes.get(name).transform.baseVal[0].matrix;
    k = Math.max(k, 0.8);
    x = box.clientWidth / 2 - (at.e + 100) * k;
    y = box.clientHeight / 2 - (at.f + 22) * k;
    apply();
  };
  const reach = (start, steps) => {
    const seen = new Set([start]), queue = [start];
    while (queue.length) for (const next of steps.get(queue.pop()) ?? []) if (!seen.has(next)) { seen.add(next); queue.push(next); }
    return seen;
  };
  const light = (name, only) => {
    const above = name && reach(name, up), below = name && reach(name, down);
    const on = (n) => !name || (only ? only.has(n) : above.has(n) || below.has(n));
    nodes.forEach((node, n) => { node.classList.toggle("faded", !on(n)); node.classList.toggle("found", n === name); });
    edges.forEach((edge) => {
      const { from, to } = edge.dataset;
      const lit = name && on(from) && on(to) && (only || (above.has(from) && above.has(to)) || (below.has(from) && below.has(to)));
      edge.classList.toggle("on", Boolean(lit));
      edge.classList.toggle("faded", Boolean(name) && !lit);
    });
  };
  const focus = async (name, column) => {
    const query = new URLSearchParams({ focus: name, ...(column ? { column } : {}) });
    history.replaceState(null, "", "/lineage?" + query);
    light(name);
    detail.innerHTML = await (await fetch("/part/lineage?" + query)).text();
    told(name);
  };
  const told = (name) => {
    const tables = document.getElementById("column-lineage")?.dataset.tables;
    if (tables !== undefined) light(name, new Set([name, ...tables.split("|")]));
  };
  box.addEventListener("wheel", (event) => {
    event.preventDefault();
    const r = box.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY * 0.0016), event.clientX - r.left, event.clientY - r.top);
  }, { passive: false });
  const held = new Map();
  let moved = 0;
  box.addEventListener("pointerdown", (event) => { if (!event.target.closest("button")) { held.set(event.pointerId, [event.clientX, event.clientY]); moved = 0; } });
  addEventListener("pointermove", (event) => {
    const was = held.get(event.pointerId);
    if (!was) return;
    const now = [event.clientX, event.clientY];
    if (held.size === 2) {
      const other = [...held].find(([id]) => id !== event.pointerId)[1], r = box.getBoundingClientRect();
      const far = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      zoom(far(now) / far(was), (now[0] + other[0]) / 2 - r.left, (now[1] + other[1]) / 2 - r.top);
    } else { x += now[0] - was[0]; y += now[1] - was[1]; apply(); }
    moved += Math.abs(now[0] - was[0]) + Math.abs(now[1] - was[1]);
    held.set(event.pointerId, now);
  });
  ["pointerup", "pointercancel"].forEach((kind) => addEventListener(kind, (event) => held.delete(event.pointerId)));
  box.addEventListener("dragstart", (event) => event.preventDefault());
  box.addEventListener("click", (event) => {
    const node = event.target.closest(".node");
    if (node) { event.preventDefault(); if (moved < 6) focus(node.dataset.name); }
  });
  box.addEventListener("focusin", (event) => { const node = event.target.closest(".node"); if (node && event.target.matches(":focus-visible")) centre(node.dataset.name); });
  detail.addEventListener("click", (event) => {
    const link = event.target.closest("[data-focus-link]"), column = event.target.closest("[data-column-link]");
    if (link) { event.preventDefault(); centre(link.dataset.focusLink); focus(link.dataset.focusLink); }
    if (column) { event.preventDefault(); focus(new URLSearchParams(location.search).get("focus"), column.dataset.columnLink); }
  });
  box.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
    if (step) { x += step[0]; y += step[1]; apply(); event.preventDefault(); }
    if (event.key === "+" || event.key === "=") zoom(1.3);
    if (event.key === "-") zoom(0.77);
    if (event.key === "0") fit();
    if (event.key === "Escape") { light(""); detail.replaceChildren(); history.replaceState(null, "", "/lineage"); }
  });
  box.querySelectorAll("[data-zoom]").forEach((button) => button.addEventListener("click", () => zoom(Number(button.dataset.zoom))));
  box.querySelector("[data-fit]").addEventListener("click", fit);
  const seek = document.getElementById("seek"), said = document.getElementById("seek-told");
  let hits = [], hit = 0;
  seek.addEventListener("input", () => {
    const text = seek.value.trim().toLowerCase();
    hits = text ? [...nodes.keys()].filter((name) => name.toLowerCase().includes(text)) : [];
    hit = 0;
    said.textContent = text ? `${hits.length} found` : "";
    nodes.forEach((node, name) => { node.classList.toggle("found", hits.includes(name)); node.classList.toggle("faded", Boolean(text) && !hits.includes(name)); });
    if (hits.length) centre(hits[0]);
  });
  seek.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && hits.length) { centre(hits[hit % hits.length]); focus(hits[hit % hits.length]); hit += 1; }
  });
  fit();
  if (box.dataset.focus) { light(box.dataset.focus); told(box.dataset.focus); if (width * k < 0.5 * width) centre(box.dataset.focus); }
  box.dataset.ready = "yes";
})();
