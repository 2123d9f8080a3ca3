-- How people sign in. What they may do stands elsewhere.

CREATE TABLE accounts (
    id               TEXT   PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    organization     TEXT   NOT NULL REFERENCES organizations (id),
    sign_in_name     TEXT   NOT NULL,
    passphrase_hash  TEXT,
    totp             TEXT,
    sessions_from_ms BIGINT NOT NULL,
    created_ms       BIGINT NOT NULL,
    UNIQUE (organization, sign_in_name)
);

CREATE TABLE passkeys (
    credential   TEXT   PRIMARY KEY,
    organization TEXT   NOT NULL REFERENCES organizations (id),
    account      TEXT   NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    name         TEXT   NOT NULL,
    document     TEXT   NOT NULL,
    created_ms   BIGINT NOT NULL
);

CREATE INDEX passkeys_of_account ON passkeys (account);

CREATE TABLE recovery_codes (
    code_hash    TEXT   PRIMARY KEY,
    organization TEXT   NOT NULL REFERENCES organizations (id),
    account      TEXT   NOT NULL REFERENCES accounts (id) ON DELETE CASCADE
);

CREATE INDEX recovery_codes_of_account ON recovery_codes (account);

-- Links by which a person sets an account up, or gets into it again: each works once.
CREATE TABLE account_links (
    secret_hash  TEXT   PRIMARY KEY,
    organization TEXT   NOT NULL REFERENCES organizations (id),
    owner        TEXT   NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    expires_ms   BIGINT NOT NULL
);

CREATE TABLE oidc_providers (
    organization  TEXT   NOT NULL REFERENCES organizations (id),
    name          TEXT   NOT NULL,
    title         TEXT   NOT NULL,
    issuer        TEXT   NOT NULL,
    client_id     TEXT   NOT NULL,
    client_secret TEXT   NOT NULL,
    scopes        TEXT   NOT NULL,
    groups_claim  TEXT   NOT NULL,
    group_map     TEXT   NOT NULL,
    domains       TEXT   NOT NULL,
    new_users     TEXT   NOT NULL,
    ca_pem        TEXT   NOT NULL,
    created_ms    BIGINT NOT NULL,
    PRIMARY KEY (organization, name)
);

CREATE TABLE oidc_identities (
    organization TEXT NOT NULL REFERENCES organizations (id),
    provider     TEXT NOT NULL,
    subject      TEXT NOT NULL,
    account      TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    PRIMARY KEY (organization, provider, subject),
    FOREIGN KEY (organization, provider) REFERENCES oidc_providers (organization, name) ON DELETE CASCADE
);
