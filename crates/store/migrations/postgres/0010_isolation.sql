-- Who a transaction is bound to stands in the setting tidegate.organization: one organization's id, or * for the
-- installation. Nothing set: nothing is seen. Tables with a column `organization` get their rule by themselves after
-- the migrations (isolate.sql); these three have none.

ALTER TABLE organizations ENABLE ROW LEVEL SECURITY;
ALTER TABLE organizations FORCE ROW LEVEL SECURITY;
CREATE POLICY one_organization ON organizations USING (
    id = current_setting('tidegate.organization', true) OR current_setting('tidegate.organization', true) = '*'
);

-- A policy's own row is under the rule of its table, and so is what is seen through it.
ALTER TABLE policy_groups ENABLE ROW LEVEL SECURITY;
ALTER TABLE policy_groups FORCE ROW LEVEL SECURITY;
CREATE POLICY one_organization ON policy_groups USING (
    EXISTS (SELECT 1 FROM policies WHERE policies.id = policy_groups.policy)
);

ALTER TABLE policy_resources ENABLE ROW LEVEL SECURITY;
ALTER TABLE policy_resources FORCE ROW LEVEL SECURITY;
CREATE POLICY one_organization ON policy_resources USING (
    EXISTS (SELECT 1 FROM policies WHERE policies.id = policy_resources.policy)
);
