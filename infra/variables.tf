variable "subscription_id" {
  description = "The subscription."
  type        = string
}

variable "name" {
  description = "What all names begin with: letters, digits and '-'."
  type        = string
  default     = "shoal"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,20}$", var.name))
    error_message = "3 to 21 lower-case letters, digits and '-', beginning with a letter."
  }
}

variable "location" {
  description = "The region."
  type        = string
  default     = "westeurope"
}

variable "replication" {
  description = "Copies of the lake: LRS in one building, ZRS in three zones, GZRS in two regions."
  type        = string
  default     = "ZRS"
}

variable "node_size" {
  description = "Size of the cluster's machines."
  type        = string
  default     = "Standard_D4ds_v5"
}

variable "max_nodes" {
  description = "Most machines."
  type        = number
  default     = 6
}

variable "zones" {
  description = "Zones that the machines are spread over."
  type        = list(string)
  default     = ["1", "2", "3"]
}

variable "service_accounts" {
  description = "Service accounts, as namespace:name, that may act as Shoal's identity."
  type        = list(string)
  default     = ["ml:delay"]
}
