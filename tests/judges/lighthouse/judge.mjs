// Lighthouse's accessibility and best practices for pages behind a sign-in.
//   node judge.mjs
// Standard input: {"chromium", "origin", "cookie", "pages": [{"name", "path"}]}. A line of JSON a page comes back:
// {"name", "accessibility", "best-practices", "failed": [...]}, the scores from 0 to 100.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import lighthouse from "lighthouse";

const CATEGORIES = ["accessibility", "best-practices"];
const { chromium, origin, cookie, pages } = JSON.parse(readFileSync(0, "utf8"));

// In this process group, so that whoever ends it ends the browser too.
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
  rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
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
try {
  for (const { name, path } of pages) {
    const { lhr } = await lighthouse(origin + path, {
      port,
      logLevel: "silent",
      onlyCategories: CATEGORIES,
      extraHeaders: cookie ? { Cookie: cookie } : {},
      formFactor: "desktop",
      screenEmulation: { mobile: false, width: 1440, height: 900, deviceScaleFactor: 1, disabled: false },
      throttlingMethod: "provided",
      disableFullPageScreenshot: true,
      // The page that says that there is none is judged too.
      ignoreStatusCode: true,
    });
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
    console.log(JSON.stringify(answer));
  }
} finally {
  await end();
}
