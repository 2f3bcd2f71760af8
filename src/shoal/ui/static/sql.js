// The SQL editor: completion, running, a table or a chart of the answer.
"use strict";
(() => {
  const form = document.getElementById("sql"), area = document.getElementById("query"), result = document.getElementById("result");
  const rows = document.getElementById("rows"), chart = document.getElementById("chart"), told = document.getElementById("told"), wrong = document.getElementById("wrong");
  const WORDS = "SELECT FROM WHERE GROUP BY ORDER BY HAVING LIMIT JOIN LEFT JOIN INNER JOIN ON AS WITH UNION ALL DISTINCT COUNT SUM AVG MIN MAX CASE WHEN THEN ELSE END CAST BETWEEN IN IS NULL NOT AND OR VERSION AS OF DATE_TRUNC OVER PARTITION".split(" ");
  let names = {}, answer = null, list = null, at = 0;
  fetch("/api/sql/names").then((a) => a.json()).then((found) => { names = found; });

  // Completion.
  const word = () => /[\w.]*$/.exec(area.value.slice(0, area.selectionStart))[0];
  const offers = (typed, all) => {
    const low = typed.toLowerCase(), text = area.value.toLowerCase();
    if (!low && !all) return [];
    const tables = Object.keys(names), used = tables.filter((name) => text.includes(name.toLowerCase()));
    const columns = [...new Set((used.length ? used : tables).flatMap((name) => names[name]))];
    const last = low.split(".").pop();
    const dotted = low.includes(".") && tables.some((t) => t.toLowerCase().startsWith(low));
    const found = [...(dotted ? [] : columns.filter((c) => c.toLowerCase().startsWith(last))), ...tables.filter((t) => t.toLowerCase().startsWith(low) || t.split(".")[1].toLowerCase().startsWith(low)), ...WORDS.filter((w) => w.toLowerCase().startsWith(low))];
    return [...new Set(found)].filter((w) => w.toLowerCase() !== low).slice(0, 30);
  };
  const close = () => { list?.remove(); list = null; area.removeAttribute("aria-activedescendant"); };
  const mark = () => [...list.children].forEach((item, i) => { item.setAttribute("aria-selected", String(i === at)); if (i === at) { item.scrollIntoView({ block: "nearest" }); area.setAttribute("aria-activedescendant", item.id); } });
  const take = (text) => {
    const typed = word(), keep = text.includes(".") || !typed.includes(".") ? typed.length : typed.length - typed.lastIndexOf(".") - 1;
    area.setRangeText(text, area.selectionStart - keep, area.selectionStart, "end");
    close();
    area.focus();
  };
  const offer = (all) => {
    close();
    const found = offers(word(), all);
    if (!found.length) return;
    list = Object.assign(document.createElement("ul"), { className: "complete", id: "offers" });
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", "Completions");
    found.forEach((text, i) => {
      const item = Object.assign(document.createElement("li"), { textContent: text, id: "offer-" + i });
      item.setAttribute("role", "option");
      item.addEventListener("pointerdown", (event) => { event.preventDefault(); take(text); });
      list.append(item);
    });
    at = 0;
    mark();
    area.parentElement.append(list);
    const lines = area.value.slice(0, area.selectionStart).split("\n"), style = getComputedStyle(area), high = parseFloat(style.lineHeight);
    list.style.top = Math.min(lines.length * high + 10 - area.scrollTop, area.clientHeight) + "px";
    list.style.left = Math.min(lines.at(-1).length * 7.8 + 10, area.clientWidth - 200) + "px";
  };
  area.addEventListener("input", () => offer(false));
  area.addEventListener("blur", close);
  area.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") { event.preventDefault(); close(); run(); return; }
    if (event.ctrlKey && event.key === " ") { event.preventDefault(); offer(true); return; }
    if (!list) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); at = (at + (event.key === "ArrowDown" ? 1 : list.children.length - 1)) % list.children.length; mark(); }
    else if (event.key === "Enter" || event.key === "Tab") { event.preventDefault(); take(list.children[at].textContent); }
    else if (event.key === "Escape") { event.preventDefault(); close(); }
  });

  // Running.
  const button = document.getElementById("run");
  const element = (tag, text, name) => { const made = document.createElement(tag); if (text !== undefined) made.textContent = text; if (name) made.className = name; return made; };
  const run = async () => {
    button.disabled = true;
    button.textContent = "Running…";
    wrong.replaceChildren();
    try {
      const got = await fetch("/api/sql/run", { method: "POST", headers: { "x-csrf-token": shoal.csrf() }, body: new URLSearchParams({ query: area.value }) });
      const type = got.headers.get("content-type") ?? "";
      const found = type.includes("json") ? await got.json() : { error: await got.text() };
      if (got.ok) { answer = found; show(); history.replaceState(null, "", "?q=" + encodeURIComponent(area.value)); }
      else {
        const note = element("div", undefined, "note bad");
        note.append(element("p", found.error), element("p", found.hint ?? "", "soft"));
        wrong.append(note);
        result.hidden = true;
      }
    } catch { wrong.append(element("div", "The server does not answer.", "note bad")); }
    button.disabled = false;
    button.textContent = "Run";
  };
  const show = () => {
    result.hidden = false;
    told.textContent = `${answer.rows.toLocaleString("en")} rows${answer.more ? ", there are more" : ""} in ${answer.seconds} s`;
    const table = element("table"), head = element("tr"), body = element("tbody");
    answer.columns.forEach((column) => { const cell = element("th", column.name, column.kind === "number" ? "num" : ""); cell.scope = "col"; cell.title = column.type; head.append(cell); });
    for (let i = 0; i < answer.rows; i++) {
      const line = element("tr");
      answer.columns.forEach((column, c) => {
        const value = answer.values[c][i];
        line.append(element("td", value === null ? "null" : String(typeof value === "number" ? Number(value.toPrecision(12)) : value), "value" + (column.kind === "number" ? " num" : "") + (value === null ? " null" : "")));
      });
      body.append(line);
    }
    const top = element("thead");
    top.append(head);
    table.append(top, body);
    rows.replaceChildren(table);
    pick(false);
  };
  const pick = (charted) => {
    document.getElementById("as-table").setAttribute("aria-pressed", String(!charted));
    document.getElementById("as-chart").setAttribute("aria-pressed", String(charted));
    rows.hidden = charted;
    chart.hidden = !charted;
    if (!charted) return;
    chart.replaceChildren();
    const numbers = answer.columns.map((c, i) => i).filter((i) => answer.columns[i].kind === "number");
    const time = answer.columns.findIndex((c) => c.kind === "time");
    const lines = numbers.filter((i) => i !== (time < 0 && numbers.length > 1 ? numbers[0] : -1)).slice(0, 5);
    if (!lines.length || !answer.rows) { chart.append(element("p", "A chart needs a column of numbers.", "empty")); return; }
    const xs = time >= 0 ? answer.values[time].map((v) => Date.parse(v.replace(" ", "T") + (v.length > 10 && !/[Z+]/.test(v) ? "Z" : "")) / 1000) : numbers.length > 1 ? answer.values[numbers[0]] : answer.values[0].map((_, i) => i);
    const order = xs.map((_, i) => i).filter((i) => Number.isFinite(Number(xs[i]))).sort((a, b) => xs[a] - xs[b]);
    const data = [order.map((i) => Number(xs[i])), ...lines.map((c) => order.map((i) => answer.values[c][i] === null ? null : Number(answer.values[c][i])))];
    shoalChart(chart, data, lines.map((c, i) => ({ label: answer.columns[c].name, colour: "--c" + (i + 1), points: order.length < 60 })), { timed: time >= 0 });
  };
  document.getElementById("as-table").addEventListener("click", () => pick(false));
  document.getElementById("as-chart").addEventListener("click", () => pick(true));
  button.addEventListener("click", run);
  if (form.dataset.given) run();
})();
