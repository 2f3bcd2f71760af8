output "lake" {
  description = "storage in shoal.toml"
  value       = "abfss://lake@${azurerm_storage_account.lake.primary_dfs_host}/"
}

output "artifacts" {
  description = "artifacts in shoal.toml"
  value       = "abfss://artifacts@${azurerm_storage_account.lake.primary_dfs_host}/"
}

output "registry" {
  description = "shoal bundle --image REGISTRY/NAME"
  value       = azurerm_container_registry.this.login_server
}

output "identity" {
  description = "shoal deploy k8s --identity"
  value       = azurerm_user_assigned_identity.shoal.client_id
}

output "cluster" {
  description = "az aks get-credentials --name"
  value       = azurerm_kubernetes_cluster.this.name
}

output "workspace" {
  description = "shoal deploy azureml --workspace"
  value       = azurerm_machine_learning_workspace.this.name
}
