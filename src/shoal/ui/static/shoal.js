// What pages share: the theme, parts loaded later, copied commands, keys, and sliders.
"use strict";
(() => {
  const root = document.documentElement;
  const csrf = () => document.querySelector('meta[name="csrf"]')?.content ?? "";
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;

  document.querySelector("[data-theme-toggle]")?.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem("shoal-theme", root.dataset.theme);
    document.dispatchEvent(new Event("shoal:theme"));
  });

  // <div data-load="/part"> is filled by what the address answers.
  const load = async (place) => {
    try {
      const answer = await fetch(place.dataset.load, { headers: { accept: "text/html" } });
      place.innerHTML = await answer.text();
    } catch {
      place.textContent = "The server does not answer.";
    }
    place.removeAttribute("aria-busy");
    wire(place);
    place.dispatchEvent(new CustomEvent("shoal:loaded", { bubbles: true }));
  };

  const wire = (part) => {
    part.querySelectorAll("[data-load]").forEach((place) => {
      place.setAttribute("aria-busy", "true");
      load(place);
      if (place.dataset.every) setInterval(() => document.hidden || load(place), 1000 * Number(place.dataset.every));
    });
    part.querySelectorAll("[data-copy]").forEach((button) => button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.dataset.copy);
      const before = button.textContent;
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = before; }, 1200);
    }));
    part.querySelectorAll("[data-submit]").forEach((input) => input.addEventListener("change", () => input.form.requestSubmit()));
    part.querySelectorAll("[data-shows]").forEach((input) => {
      const shown = document.getElementById(input.dataset.shows);
      const names = input.dataset.names ? JSON.parse(input.dataset.names) : {};
      input.addEventListener("input", () => { shown.textContent = names[input.value] ?? input.value; });
    });
    part.querySelectorAll("[data-check-all]").forEach((all) => all.addEventListener("change", () => {
      all.closest("form").querySelectorAll('input[type="checkbox"][name]').forEach((box) => { box.checked = all.checked; });
    }));
    part.querySelectorAll("form[data-once]").forEach((form) => form.addEventListener("submit", () => {
      const button = form.querySelector('button[type="submit"], button:not([type])');
      setTimeout(() => { if (button) { button.disabled = true; button.textContent = form.dataset.once; } });
    }));
    // What scrolls sideways must be reachable by keys.
    part.querySelectorAll(".scroll:not([tabindex])").forEach((place) => {
      if (place.scrollWidth <= place.clientWidth + 1) return;
      place.tabIndex = 0;
      place.setAttribute("role", "region");
      place.setAttribute("aria-label", (place.closest(".card")?.querySelector("h2, h3, caption")?.textContent ?? "Page") + ", table");
    });
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
    const target = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (target) { event.preventDefault(); target.focus(); target.select?.(); }
  });

  const find = document.getElementById("find");
  find?.addEventListener("focus", async () => {
    const list = document.getElementById("find-names");
    if (list.childElementCount) return;
    const names = await (await fetch("/api/names")).json();
    list.replaceChildren(...names.map((name) => Object.assign(document.createElement("option"), { value: name })));
  });

  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  window.shoal = { csrf, css, dark, wire };
  wire(document);
})();
