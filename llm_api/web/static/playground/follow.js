// The page's end stays in sight while an answer grows, unless its reader has gone elsewhere.

const NEAR = 80; // pixels

let follows = true;

const toEnd = () => scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });

export function follow() {
  follows = true;
  toEnd();
}

export function startFollowing(growing) {
  let place = scrollY;
  addEventListener("scroll", () => {
    // a page that shrinks moves too, but stays at its end
    const isNear = innerHeight + scrollY >= document.documentElement.scrollHeight - NEAR;
    follows = isNear || (follows && scrollY >= place);
    place = scrollY;
  }, { passive: true });
  new ResizeObserver(() => follows && toEnd()).observe(growing);
}
