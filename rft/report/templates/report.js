"use strict";
(function () {
  const articles = Array.from(document.querySelectorAll("article.prompt"));
  const controls = document.getElementById("controls");
  const pick = document.getElementById("pick");
  const find = document.getElementById("find");
  const count = document.getElementById("count");
  const previous = document.getElementById("previous");
  const next = document.getElementById("next");
  const boxes = Array.from(controls.querySelectorAll("input[name=arm]"));

  function show(element, shown) {
    element.toggleAttribute("data-hidden", !shown);
  }

  // A search looks through all prompts; without one, the page shows the prompt that is picked.
  function update() {
    const arms = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const words = find.value.trim().toLowerCase();
    const one = words === "" && pick.value !== "";
    let shown = 0;
    for (const article of articles) {
      let text = article.querySelector("h3 .text").textContent;
      for (const card of article.querySelectorAll(".card")) {
        const wanted = arms.has(card.dataset.arm);
        show(card, wanted);
        if (wanted) text += "\n" + card.querySelector(".text").textContent;
      }
      const wanted = one ? pick.value === article.dataset.prompt : text.toLowerCase().includes(words);
      show(article, wanted);
      if (wanted) shown += 1;
    }
    previous.disabled = !one || pick.value === "0";
    next.disabled = !one || pick.value === String(articles.length - 1);
    count.textContent = one
      ? Number(pick.value) + 1 + " of " + articles.length
      : shown + " of " + articles.length + " shown";
  }

  function turn(by) {
    pick.value = String(Number(pick.value) + by);
    update();
  }

  controls.hidden = false;
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", update);
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  update();

  const download = document.getElementById("download");
  download.hidden = false;
  download.addEventListener("click", (event) => {
    event.preventDefault();
    const text = JSON.stringify(JSON.parse(document.getElementById("summary").textContent), null, 2);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "summary.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });
})();
