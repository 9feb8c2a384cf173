// The page's end stays in sight while an answer grows, unless its reader has gone elsewhere.

const NEAR = 80; // pixels

let follows = true;

const toEnd = () => scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });

export function follow() {
  follows = true;
  toEnd();
}

export function startFollowing(growing) {
  let last = scrollY;
  addEventListener("scroll", () => {
    const isNear = innerHeight + scrollY >= document.documentElement.scrollHeight - NEAR;
    // what grows below is no scrolling up
    follows = isNear || (follows && scrollY >= last);
    last = scrollY;
  }, { passive: true });
  new ResizeObserver(() => follows && toEnd()).observe(growing);
}
