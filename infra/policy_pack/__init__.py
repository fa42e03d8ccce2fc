"""The policies as a pack for `pulumi preview --policy-pack infra/policy_pack`."""
