//! Changes of what stands where: sites, connectors, resources.

use super::Change;
use crate::{
    Connector, Resource, ResourceMode, Site, StoreError,
    row::{hex32, integer, json_text},
    statement::query,
};
use wire::{ConnectorId, ResourceId, SiteId};

impl Change {
    /// Adds a site.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub async fn insert_site(&mut self, site: &Site) -> Result<(), StoreError> {
        let statement = query(
            "INSERT INTO sites (id, organization, name, prefixes, regions, created_ms) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(site.id.to_string())
        .bind(self.organization()?)
        .bind(site.name.clone())
        .bind(json_text(&site.prefixes))
        .bind(json_text(&site.regions))
        .bind(integer(site.created_ms));
        self.run("site", statement.of_row(site.id.to_string())).await.map(|_| ())
    }

    /// Replaces a site's values.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    pub async fn update_site(&mut self, site: &Site) -> Result<(), StoreError> {
        let statement = query(
            "UPDATE sites SET name = $1, prefixes = $2, regions = $3 WHERE id = $4 AND organization = $5",
        )
        .bind(site.name.clone())
        .bind(json_text(&site.prefixes))
        .bind(json_text(&site.regions))
        .bind(site.id.to_string())
        .bind(self.organization()?);
        self.hit("site", site.id.to_string(), statement).await
    }

    /// Removes a site without connectors and resources.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Reference`] while something is in it.
    pub async fn delete_site(&mut self, id: SiteId) -> Result<(), StoreError> {
        let statement = query("DELETE FROM sites WHERE id = $1 AND organization = $2")
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("site", id.to_string(), statement).await
    }

    /// Adds a connector.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::NotFound`] for the site.
    pub async fn insert_connector(&mut self, connector: &Connector) -> Result<(), StoreError> {
        self.own_site(connector.site).await?;
        let statement = query(
            "INSERT INTO connectors (id, organization, site, name, identity_key, wireguard_key, seal_key, generation, \
             enrolled_by, created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(connector.id.to_string())
        .bind(self.organization()?)
        .bind(connector.site.to_string())
        .bind(connector.name.clone())
        .bind(hex32::encode(&connector.identity_key))
        .bind(hex32::encode(&connector.wireguard_key))
        .bind(hex32::encode(&connector.seal_key))
        .bind(integer(connector.generation))
        .bind(connector.enrolled_by.to_string())
        .bind(integer(connector.created_ms));
        self.run("connector", statement.of_row(connector.id.to_string())).await.map(|_| ())
    }

    /// Removes a connector.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_connector(&mut self, id: ConnectorId) -> Result<(), StoreError> {
        let statement = query("DELETE FROM connectors WHERE id = $1 AND organization = $2")
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("connector", id.to_string(), statement).await
    }

    /// Adds a resource.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when name or alias is taken, [`StoreError::NotFound`] for the site.
    pub async fn insert_resource(&mut self, resource: &Resource) -> Result<(), StoreError> {
        self.own_site(resource.site).await?;
        let statement = query(
            "INSERT INTO resources (id, organization, site, name, alias, address, ports, mode, created_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(resource.id.to_string())
        .bind(self.organization()?)
        .bind(resource.site.to_string())
        .bind(resource.name.clone())
        .bind(resource.alias.clone())
        .bind(resource.address.clone())
        .bind(json_text(&resource.ports))
        .bind(mode_text(resource.mode))
        .bind(integer(resource.created_ms));
        self.run("resource", statement.of_row(resource.id.to_string())).await.map(|_| ())
    }

    /// Replaces a resource's values.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    pub async fn update_resource(&mut self, resource: &Resource) -> Result<(), StoreError> {
        self.own_site(resource.site).await?;
        let statement = query(
            "UPDATE resources SET site = $1, name = $2, alias = $3, address = $4, ports = $5, mode = $6 \
             WHERE id = $7 AND organization = $8",
        )
        .bind(resource.site.to_string())
        .bind(resource.name.clone())
        .bind(resource.alias.clone())
        .bind(resource.address.clone())
        .bind(json_text(&resource.ports))
        .bind(mode_text(resource.mode))
        .bind(resource.id.to_string())
        .bind(self.organization()?);
        self.hit("resource", resource.id.to_string(), statement).await
    }

    /// Removes a resource, also from every policy.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_resource(&mut self, id: ResourceId) -> Result<(), StoreError> {
        let statement = query("DELETE FROM resources WHERE id = $1 AND organization = $2")
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("resource", id.to_string(), statement).await
    }
}

const fn mode_text(mode: ResourceMode) -> &'static str {
    match mode {
        ResourceMode::Standard => "standard",
        ResourceMode::Strict => "strict",
    }
}
