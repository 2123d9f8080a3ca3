-- Until when grants live that were issued before their life was made shorter.
ALTER TABLE organizations ADD COLUMN old_grants_end_ms BIGINT NOT NULL DEFAULT 0;
