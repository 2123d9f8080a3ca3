// Lighthouse's accessibility and best practices for pages behind a sign-in.
//   node judge.mjs
// Standard input, a line of JSON each: first {"chromium", "cookie"}, a browser of its own that sends this cookie, or
// {"port", "target"}, a page of a running one. Then {"name", "url"} a page: it is opened; in a running browser what is asked
// for as {"name"} comes by what somebody does there, between the line {"ready"} from here and the next line from there.
// Standard output, a line a page: {"name", "shown", "accessibility", "best-practices", "failed": [...]}, scores from 0 to 100.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import lighthouse from "lighthouse";
import puppeteer from "puppeteer-core";

const CATEGORIES = ["accessibility", "best-practices"];
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const next = async () => {
  const { value, done } = await lines.next();
  return done ? null : JSON.parse(value);
};
const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

// In this process group, so that whoever ends it ends the browser too.
async function ownBrowser(chromium) {
  const profile = mkdtempSync(join(tmpdir(), "tidegate-lighthouse-"));
  const browser = spawn(chromium, [
    "--headless=new", "--remote-debugging-port=0", `--user-data-dir=${profile}`, "--no-first-run", "--disable-gpu",
    // As root in containers no sandbox can be made; the pages are our own, with a certificate of the installation's own authority.
    "--no-sandbox", "--disable-dev-shm-usage", "--ignore-certificate-errors",
  ], { stdio: ["ignore", "ignore", "pipe"] });
  const ended = new Promise((resolve) => browser.once("exit", resolve));
  const end = async () => {
    browser.kill("SIGKILL");
    await ended;
    // Its other processes write until they notice: what came after a directory was emptied is removed by the next try.
    for (let left = 100; ; left -= 1) {
      try {
        return rmSync(profile, { recursive: true, force: true });
      } catch (error) {
        if (left === 0) throw error;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  };
  process.once("SIGTERM", () => end().finally(() => process.exit(143)));
  const port = await new Promise((resolve, reject) => {
    browser.once("error", reject);
    browser.once("exit", (code) => reject(new Error(`the browser ended with ${code}`)));
    createInterface({ input: browser.stderr }).on("line", (line) => {
      const said = line.match(/^DevTools listening on ws:\/\/127\.0\.0\.1:(\d+)\//);
      if (said) resolve(Number(said[1]));
    });
  });
  return { port, page: undefined, end };
}

async function runningBrowser(port, target) {
  const browser = await puppeteer.connect({ browserURL: `http://127.0.0.1:${port}`, defaultViewport: null });
  const wanted = await browser.waitForTarget((each) => each._targetId === target, { timeout: 10_000 });
  return { port, page: await wanted.page(), end: () => browser.disconnect() };
}

const asked = await next();
const { port, page, end } = asked.chromium ? await ownBrowser(asked.chromium) : await runningBrowser(asked.port, asked.target);
try {
  for (let one = await next(); one; one = await next()) {
    const { name, url } = one;
    const byHand = async () => {
      say({ ready: name });
      await next();
    };
    const { lhr } = await lighthouse(url ?? byHand, {
      port,
      logLevel: "silent",
      onlyCategories: CATEGORIES,
      extraHeaders: asked.cookie ? { Cookie: asked.cookie } : {},
      formFactor: "desktop",
      screenEmulation: { mobile: false, width: 1440, height: 900, deviceScaleFactor: 1, disabled: false },
      throttlingMethod: "provided",
      disableFullPageScreenshot: true,
      // Who is signed in stays it.
      disableStorageReset: true,
      // The page that says that there is none is judged too.
      ignoreStatusCode: true,
    }, undefined, page);
    if (lhr.runtimeError) throw new Error(`${name}: ${lhr.runtimeError.code} ${lhr.runtimeError.message}`);
    const answer = { name, shown: lhr.finalDisplayedUrl, failed: [] };
    for (const id of CATEGORIES) {
      const category = lhr.categories[id];
      if (category.score === null) throw new Error(`${name}: no score of ${id}`);
      answer[id] = Math.round(category.score * 100);
      for (const { id: audit, weight } of category.auditRefs) {
        const { score, scoreDisplayMode, title, details } = lhr.audits[audit];
        if (weight > 0 && scoreDisplayMode === "error") throw new Error(`${name}: ${audit} could not be judged`);
        if (weight > 0 && score !== null && score < 1) {
          const what = (details?.items ?? []).slice(0, 3).map((item) => item.node?.snippet ?? item.description ?? item.issueType ?? "");
          answer.failed.push(`${audit}: ${title} ${what.join(" | ").slice(0, 400)}`.trim());
        }
      }
    }
    say(answer);
  }
} finally {
  await end();
  process.stdin.destroy();
}
