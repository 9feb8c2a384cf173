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
  let height = 0;
  addEventListener("scroll", () => {
    const { scrollHeight } = document.documentElement;
    const isNear = innerHeight + scrollY >= scrollHeight - NEAR;
    // what moves because the page grows or shrinks is not its reader's doing
    const hasLeft = scrollY < place && scrollHeight === height;
    follows = isNear || (follows && !hasLeft);
    [place, height] = [scrollY, scrollHeight];
  }, { passive: true });
  new ResizeObserver(() => follows && toEnd()).observe(growing);
}
