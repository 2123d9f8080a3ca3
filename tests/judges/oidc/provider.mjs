// A certified OpenID provider (npm's oidc-provider) for the sign-in tests. Whoever signs in is who they say:
//   node provider.mjs ISSUER CERTIFICATE KEY REDIRECT_URI [PEOPLE]
// PEOPLE is what it says of each by their name there, in JSON.
import { createServer } from "node:https";
import { readFileSync } from "node:fs";
import { Provider } from "oidc-provider";

const [issuer, certificate, key, redirectUri, others] = process.argv.slice(2);

const people = others ? JSON.parse(others) : {
  ada: { email: "ada@example.com", email_verified: true, name: "Ada Lovelace", groups: ["engineers"] },
  mallory: { email: "lena@example.com", email_verified: false, name: "Not Lena", groups: [] },
};

const provider = new Provider(issuer, {
  clients: [{
    client_id: "tidegate",
    client_secret: "a secret / with = signs & more",
    redirect_uris: [redirectUri],
    grant_types: ["authorization_code"],
    response_types: ["code"],
  }],
  scopes: ["openid", "profile", "email", "groups"],
  claims: {
    openid: ["sub"],
    profile: ["name"],
    email: ["email", "email_verified"],
    groups: ["groups"],
  },
  // What a client needs stands in the id_token, as most providers have it.
  conformIdTokenClaims: false,
  pkce: { required: () => true },
  cookies: { keys: ["only for tests"] },
  features: { devInteractions: { enabled: true } },
  findAccount: (_, id) => ({ accountId: id, claims: async () => ({ sub: id, ...people[id] }) }),
});

const options = { cert: readFileSync(certificate), key: readFileSync(key) };
createServer(options, provider.callback()).listen(Number(new URL(issuer).port), "127.0.0.1", () => {
  console.log("ready");
});
