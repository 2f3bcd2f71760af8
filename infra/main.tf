# The reference architecture on Azure: a lake, a cluster, MLflow's database, a workspace of Azure
# Machine Learning, a registry of images and a vault. No password and no key is handed out: pods get
# tokens of a workload identity. The state of Terraform holds the database's password; keep it in a
# storage account of its own (see README.md).
terraform {
  required_version = ">= 1.6"
  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = "~> 4.0"
    }
    random = {
      source  = "hashicorp/random"
      version = "~> 3.6"
    }
  }
}

provider "azurerm" {
  subscription_id = var.subscription_id
  features {}
}

data "azurerm_client_config" "me" {}

locals {
  # Storage accounts, registries and vaults take letters and digits only, at most 24.
  short = substr(replace(var.name, "-", ""), 0, 16)
}

resource "azurerm_resource_group" "this" {
  name     = var.name
  location = var.location
}

# The lake: Delta tables and MLflow's artifacts. A hierarchical namespace makes a rename atomic.
resource "azurerm_storage_account" "lake" {
  name                            = "${local.short}lake"
  resource_group_name             = azurerm_resource_group.this.name
  location                        = azurerm_resource_group.this.location
  account_tier                    = "Standard"
  account_replication_type        = var.replication
  is_hns_enabled                  = true
  shared_access_key_enabled       = false
  allow_nested_items_to_be_public = false
  min_tls_version                 = "TLS1_2"

  blob_properties {
    delete_retention_policy {
      days = 14
    }
  }
}

resource "azurerm_storage_data_lake_gen2_filesystem" "this" {
  for_each           = toset(["lake", "artifacts"])
  name               = each.key
  storage_account_id = azurerm_storage_account.lake.id
}

# Azure Machine Learning keeps its own things apart: it cannot use an account with a hierarchy.
resource "azurerm_storage_account" "workspace" {
  name                            = "${local.short}ml"
  resource_group_name             = azurerm_resource_group.this.name
  location                        = azurerm_resource_group.this.location
  account_tier                    = "Standard"
  account_replication_type        = "LRS"
  allow_nested_items_to_be_public = false
  min_tls_version                 = "TLS1_2"
}

resource "azurerm_key_vault" "this" {
  name                       = "${local.short}-kv"
  resource_group_name        = azurerm_resource_group.this.name
  location                   = azurerm_resource_group.this.location
  tenant_id                  = data.azurerm_client_config.me.tenant_id
  sku_name                   = "standard"
  rbac_authorization_enabled = true
  purge_protection_enabled   = true
}

resource "azurerm_container_registry" "this" {
  name                = "${local.short}acr"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  sku                 = "Standard"
  admin_enabled       = false
}

resource "azurerm_log_analytics_workspace" "this" {
  name                = "${var.name}-logs"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  retention_in_days   = 30
}

resource "azurerm_application_insights" "this" {
  name                = "${var.name}-insights"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  workspace_id        = azurerm_log_analytics_workspace.this.id
  application_type    = "web"
}

resource "azurerm_machine_learning_workspace" "this" {
  name                    = "${var.name}-ml"
  resource_group_name     = azurerm_resource_group.this.name
  location                = azurerm_resource_group.this.location
  application_insights_id = azurerm_application_insights.this.id
  key_vault_id            = azurerm_key_vault.this.id
  storage_account_id      = azurerm_storage_account.workspace.id
  container_registry_id   = azurerm_container_registry.this.id

  identity {
    type = "SystemAssigned"
  }
}

# The cluster: issuer and webhook of workload identity, network policies, and the routes of
# `shoal deploy k8s --route ingress` by the managed NGINX.
resource "azurerm_kubernetes_cluster" "this" {
  name                      = "${var.name}-aks"
  resource_group_name       = azurerm_resource_group.this.name
  location                  = azurerm_resource_group.this.location
  dns_prefix                = var.name
  oidc_issuer_enabled       = true
  workload_identity_enabled = true
  local_account_disabled    = true

  default_node_pool {
    name                 = "system"
    vm_size              = var.node_size
    auto_scaling_enabled = true
    min_count            = 2
    max_count            = var.max_nodes
    zones                = var.zones
  }

  identity {
    type = "SystemAssigned"
  }

  azure_active_directory_role_based_access_control {
    azure_rbac_enabled = true
    tenant_id          = data.azurerm_client_config.me.tenant_id
  }

  network_profile {
    network_plugin      = "azure"
    network_plugin_mode = "overlay"
    network_policy      = "cilium"
    network_data_plane  = "cilium"
  }

  web_app_routing {
    dns_zone_ids = []
  }

  oms_agent {
    log_analytics_workspace_id = azurerm_log_analytics_workspace.this.id
  }
}

# What Shoal's pods are in Azure: the service account `shoal:<name>` of a deployment gets tokens of
# this identity (`shoal deploy k8s --identity`).
resource "azurerm_user_assigned_identity" "shoal" {
  name                = "${var.name}-shoal"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
}

resource "azurerm_federated_identity_credential" "shoal" {
  for_each            = toset(var.service_accounts)
  name                = replace(each.key, ":", "-")
  resource_group_name = azurerm_resource_group.this.name
  parent_id           = azurerm_user_assigned_identity.shoal.id
  audience            = ["api://AzureADTokenExchange"]
  issuer              = azurerm_kubernetes_cluster.this.oidc_issuer_url
  subject             = "system:serviceaccount:${each.key}"
}

resource "azurerm_role_assignment" "lake" {
  scope                = azurerm_storage_account.lake.id
  role_definition_name = "Storage Blob Data Contributor"
  principal_id         = azurerm_user_assigned_identity.shoal.principal_id
}

resource "azurerm_role_assignment" "secrets" {
  scope                = azurerm_key_vault.this.id
  role_definition_name = "Key Vault Secrets User"
  principal_id         = azurerm_user_assigned_identity.shoal.principal_id
}

resource "azurerm_role_assignment" "images" {
  scope                = azurerm_container_registry.this.id
  role_definition_name = "AcrPull"
  principal_id         = azurerm_kubernetes_cluster.this.kubelet_identity[0].object_id
}

# MLflow's runs and registry.
resource "random_password" "mlflow" {
  length  = 32
  special = false
}

resource "azurerm_postgresql_flexible_server" "mlflow" {
  name                          = "${var.name}-mlflow"
  resource_group_name           = azurerm_resource_group.this.name
  location                      = azurerm_resource_group.this.location
  version                       = "16"
  sku_name                      = "B_Standard_B2s"
  storage_mb                    = 32768
  administrator_login           = "mlflow"
  administrator_password        = random_password.mlflow.result
  backup_retention_days         = 14
  public_network_access_enabled = true
  zone                          = "1"
}

resource "azurerm_postgresql_flexible_server_firewall_rule" "azure" {
  name             = "azure"
  server_id        = azurerm_postgresql_flexible_server.mlflow.id
  start_ip_address = "0.0.0.0" # Azure's way to write: what runs in Azure
  end_ip_address   = "0.0.0.0"
}

resource "azurerm_postgresql_flexible_server_database" "mlflow" {
  name      = "mlflow"
  server_id = azurerm_postgresql_flexible_server.mlflow.id
}

resource "azurerm_key_vault_secret" "mlflow" {
  name         = "mlflow-tracking-uri"
  key_vault_id = azurerm_key_vault.this.id
  value = format(
    "postgresql+psycopg://mlflow:%s@%s/mlflow?sslmode=require",
    random_password.mlflow.result,
    azurerm_postgresql_flexible_server.mlflow.fqdn,
  )
}
