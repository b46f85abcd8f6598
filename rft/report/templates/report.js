"use strict";
(function () {
  const articles = Array.from(document.querySelectorAll("article.prompt"));
  const controls = document.getElementById("controls");
  const pick = document.getElementById("pick");
  const find = document.getElementById("find");
  const count = document.getElementById("count");
  const boxes = Array.from(controls.querySelectorAll("input[name=arm]"));

  function show(element, shown) {
    element.toggleAttribute("data-hidden", !shown);
  }

  function update() {
    const arms = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const words = find.value.trim().toLowerCase();
    let shown = 0;
    for (const article of articles) {
      let text = article.querySelector("h3 .text").textContent;
      for (const card of article.querySelectorAll(".card")) {
        const wanted = arms.has(card.dataset.arm);
        show(card, wanted);
        if (wanted) text += "\n" + card.querySelector(".text").textContent;
      }
      const wanted = (pick.value === "" || pick.value === article.dataset.prompt) &&
        text.toLowerCase().includes(words);
      show(article, wanted);
      if (wanted) shown += 1;
    }
    count.textContent = shown + " of " + articles.length + " shown";
  }

  controls.hidden = false;
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", update);
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
