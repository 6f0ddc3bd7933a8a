"use strict";
// Chooses prompts by which of two methods has the higher reward there.
(() => {
  const data = document.getElementById("sample-data");
  if (!data) return;
  const { names, labels, prompts } = JSON.parse(data.textContent);
  const bar = document.getElementById("sample-filter");
  const shown = document.getElementById("samples-shown"), found = document.getElementById("samples-found");
  const [one, how, other, text] = ["one", "how", "other", "text"].map((name) => bar.querySelector(`[name=${name}]`));
  const status = bar.querySelector("[role=status]");
  labels.forEach((label, i) => { one.add(new Option(label, i)); other.add(new Option(label, i)); });
  for (const [value, label] of [["", "has any outcome against"], ["loses", "loses to"], ["beats", "beats"], ["ties", "ties with"]]) how.add(new Option(label, value));
  const place = (name, otherwise) => Math.max(names.indexOf(name), 0) || otherwise;
  one.value = place("rto", 0);
  other.value = place("dppo", names.length > 1 && place("rto", 0) !== 1 ? 1 : 0);
  let limit = 20;
  const node = (tag, className, content) => {
    const made = document.createElement(tag);
    made.className = className;
    made.textContent = content;
    return made;
  };
  const number = (v) => (v === null ? "" : "reward " + v.toFixed(3).replace("-", "−"));
  const article = ([prompt, answers]) => {
    const made = node("article", "", ""), cards = node("div", "cards", "");
    made.append(node("p", "prompt", prompt), cards);
    answers.forEach((answer, i) => {
      if (!answer) return;
      const card = node("div", "card" + (how.value && (i == one.value || i == other.value) ? " chosen" : ""), ""), head = document.createElement("header");
      head.append(node("b", "", labels[i]), node("span", "", number(answer[1])));
      card.append(head, node("div", "", answer[0] || "(no words)"));
      cards.append(card);
    });
    return made;
  };
  const update = () => {
    const words = text.value.trim().toLowerCase();
    const active = how.value !== "" || words !== "";
    shown.hidden = active;
    found.hidden = !active;
    found.replaceChildren();
    status.textContent = `${prompts.length} prompts`;
    if (!active) return;
    const gap = ([, answers]) => {
      const [a, b] = [answers[one.value], answers[other.value]];
      return a && b && a[1] !== null && b[1] !== null ? a[1] - b[1] : NaN;
    };
    const fits = (prompt) => {
      const d = gap(prompt);
      const pair = { "": true, loses: d < 0, beats: d > 0, ties: d === 0 }[how.value];
      return pair && (!words || prompt[0].toLowerCase().includes(words) || prompt[1].some((a) => a && a[0].toLowerCase().includes(words)));
    };
    const kept = prompts.filter(fits);
    if (how.value === "loses" || how.value === "beats") kept.sort((p, q) => Math.abs(gap(q)) - Math.abs(gap(p)));
    status.textContent = `${kept.length} of ${prompts.length} prompts` + (how.value === "loses" || how.value === "beats" ? ", the widest gap first" : "");
    found.append(...kept.slice(0, limit).map(article));
    if (kept.length > limit) {
      const more = node("button", "", `${kept.length - limit} more`);
      more.addEventListener("click", () => { limit += 100; update(); });
      found.append(more);
    }
  };
  for (const control of [one, how, other]) control.addEventListener("change", () => { limit = 20; update(); });
  text.addEventListener("input", () => { limit = 20; update(); });
  bar.hidden = false;
  update();
})();
