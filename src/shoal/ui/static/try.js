// The form to try a request: its answer is put below it.
"use strict";
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.id !== "try-form") return;
  event.preventDefault();
  const place = document.getElementById("try-answer"), button = form.querySelector("button");
  button.disabled = true;
  try {
    const answer = await fetch(form.dataset.answer, { method: "POST", headers: { "x-csrf-token": shoal.csrf() }, body: new URLSearchParams(new FormData(form)) });
    place.innerHTML = await answer.text();
    shoal.wire(place);
  } catch { place.textContent = "The server does not answer."; }
  button.disabled = false;
});
