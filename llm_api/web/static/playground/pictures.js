// Pictures that go with a prompt: chosen, dropped or pasted, as data: addresses.

import { button, make } from "../shared/elements.js";

const box = document.getElementById("pictures");
let chosen = [];

export const pictures = () => [...chosen];

export function setPictures(urls) {
  chosen = [...urls];
  box.replaceChildren(...chosen.map((url, n) => make("div", { class: "picture" }, pictureOf(url),
    button("✕", () => setPictures(chosen.toSpliced(n, 1)), { "aria-label": `Take away picture ${n + 1}` }))));
}

export const pictureOf = (url) => make("img", { src: url, alt: "A picture that goes with the prompt", class: "thumb" });

async function take(files) {
  const urls = await Promise.all([...files].filter(({ type }) => type.startsWith("image/")).map(read));
  if (urls.length) setPictures([...chosen, ...urls]);
}

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

export function startPictures(input) {
  input.addEventListener("change", async () => {
    await take(input.files);
    input.value = "";
  });
  addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    take(event.dataTransfer.files);
  });
}
