// A live page takes its changing part from the server whenever it changes.
"use strict";
(() => {
  const box = document.getElementById("live");
  const source = new EventSource(box.dataset.events);
  source.addEventListener("part", (event) => { box.innerHTML = JSON.parse(event.data); shoal.wire(box); });
  source.addEventListener("end", () => { source.close(); box.dataset.ended = "yes"; });
})();
