-- How long a sign-in counts as fresh for what asks for one, in milliseconds.

ALTER TABLE organizations ADD COLUMN sign_in_age_ms BIGINT NOT NULL DEFAULT 900000;
