//! The names of options: what each is called by `object_store`, polars and fsspec, and whose it is.

use strsim::{jaro_winkler, normalized_damerau_levenshtein};

use crate::error::DaoError;

/// Who keeps the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cloud {
    S3,
    Google,
    Azure,
    Hub,
    Web,
}

/// What an option is about. Of one layer of options and another, what is about the same is never mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Who asks: keys, tokens, and files and services that have them.
    Who,
    /// The server.
    Endpoint,
    Region,
    /// A span of time.
    Time,
    Other,
}

/// An option.
#[derive(Debug)]
pub struct Key {
    /// As `object_store` calls it, or we, where it has none such.
    pub name: &'static str,
    pub also: &'static [&'static str],
    pub part: Part,
}

const fn key(name: &'static str, also: &'static [&'static str], part: Part) -> Key {
    Key { name, also, part }
}

use Part::{Endpoint, Other, Region, Time, Who};

const S3: &[Key] = &[
    key("aws_access_key_id", &["access_key_id", "key"], Who),
    key("aws_secret_access_key", &["secret_access_key", "secret"], Who),
    key("aws_session_token", &["aws_token", "session_token", "token"], Who),
    key("aws_skip_signature", &["skip_signature", "anon"], Who),
    key("aws_profile", &["profile"], Who),
    key("aws_web_identity_token_file", &["web_identity_token_file"], Who),
    key("aws_role_arn", &["role_arn"], Who),
    key("aws_role_session_name", &["role_session_name"], Who),
    key("aws_container_credentials_relative_uri", &["container_credentials_relative_uri"], Who),
    key("aws_container_credentials_full_uri", &["container_credentials_full_uri"], Who),
    key("aws_container_authorization_token_file", &["container_authorization_token_file"], Who),
    key("aws_shared_credentials_file", &[], Other),
    key("aws_config_file", &[], Other),
    key("aws_endpoint_url_s3", &[], Endpoint),
    key("aws_endpoint_url", &["aws_endpoint", "endpoint_url", "endpoint", "client_kwargs.endpoint_url"], Endpoint),
    key("aws_region", &["region", "region_name", "client_kwargs.region_name"], Region),
    key("aws_default_region", &["default_region"], Region),
    key("aws_bucket", &["aws_bucket_name", "bucket_name", "bucket"], Other),
    key("aws_endpoint_url_sts", &["endpoint_url_sts"], Other),
    key("aws_imdsv1_fallback", &["imdsv1_fallback"], Other),
    key("aws_metadata_endpoint", &["metadata_endpoint"], Other),
    key("aws_virtual_hosted_style_request", &["virtual_hosted_style_request"], Other),
    key("aws_s3_express", &["s3_express"], Other),
    key("aws_unsigned_payload", &["unsigned_payload"], Other),
    key("aws_checksum_algorithm", &["checksum_algorithm"], Other),
    key("aws_copy_if_not_exists", &["copy_if_not_exists"], Other),
    key("aws_conditional_put", &["conditional_put"], Other),
    key("aws_disable_tagging", &["disable_tagging"], Other),
    key("aws_request_payer", &["request_payer", "requester_pays"], Other),
    key("aws_server_side_encryption", &["server_side_encryption"], Other),
    key("aws_sse_kms_key_id", &["sse_kms_key_id"], Other),
    key("aws_sse_bucket_key_enabled", &["sse_bucket_key_enabled"], Other),
    key("aws_sse_customer_key_base64", &["sse_customer_key_base64"], Other),
    key("use_ssl", &["client_kwargs.use_ssl"], Other),
    key("verify", &["client_kwargs.verify"], Other),
];

const GOOGLE: &[Key] = &[
    key("google_service_account", &["service_account", "google_service_account_path", "service_account_path"], Who),
    key("google_service_account_key", &["service_account_key"], Who),
    key("google_application_credentials", &["application_credentials"], Who),
    key("google_skip_signature", &["skip_signature", "anon"], Who),
    key("google_bearer_token", &["bearer_token"], Who),
    key("google_token", &["token"], Who),
    key("google_base_url", &["base_url", "endpoint_url"], Endpoint),
    key("google_bucket", &["google_bucket_name", "bucket_name", "bucket"], Other),
    // gcsfs needs it to make and list buckets, which nobody does here.
    key("google_project", &["project"], Other),
];

const AZURE: &[Key] = &[
    key("azure_storage_connection_string", &["azure_connection_string", "connection_string"], Who),
    key("azure_storage_account_name", &["account_name", "azure_storage_account"], Other),
    key(
        "azure_storage_account_key",
        &[
            "azure_storage_access_key",
            "azure_storage_master_key",
            "azure_storage_key",
            "master_key",
            "account_key",
            "access_key",
        ],
        Who,
    ),
    key("azure_storage_sas_key", &["azure_storage_sas_token", "sas_key", "sas_token"], Who),
    key("azure_storage_token", &["bearer_token", "token"], Who),
    key("azure_storage_client_id", &["azure_client_id", "client_id"], Who),
    key("azure_storage_client_secret", &["azure_client_secret", "client_secret"], Who),
    key(
        "azure_storage_tenant_id",
        &["azure_storage_authority_id", "azure_tenant_id", "azure_authority_id", "tenant_id", "authority_id"],
        Who,
    ),
    key("azure_federated_token_file", &["federated_token_file"], Who),
    key("azure_use_azure_cli", &["use_azure_cli"], Who),
    key("azure_skip_signature", &["skip_signature", "anon"], Who),
    key("azure_fabric_token_service_url", &["fabric_token_service_url"], Who),
    key("azure_fabric_workload_host", &["fabric_workload_host"], Who),
    key("azure_fabric_session_token", &["fabric_session_token"], Who),
    key("azure_fabric_cluster_identifier", &["fabric_cluster_identifier"], Who),
    key("azure_storage_authority_host", &["azure_authority_host", "authority_host"], Other),
    key("azure_object_id", &["object_id"], Other),
    key("azure_msi_resource_id", &["msi_resource_id"], Other),
    key("azure_msi_endpoint", &["azure_identity_endpoint", "identity_endpoint", "msi_endpoint"], Other),
    key("azure_storage_endpoint", &["azure_endpoint", "endpoint"], Endpoint),
    key("azure_storage_use_emulator", &["use_emulator"], Endpoint),
    key("azure_use_fabric_endpoint", &["use_fabric_endpoint"], Endpoint),
    key("azure_container_name", &["container_name"], Other),
    key("azure_disable_tagging", &["disable_tagging"], Other),
];

const HUB: &[Key] = &[
    key("hf_token", &["token"], Who),
    key("hf_anon", &["anon", "skip_signature"], Who),
    key("hf_endpoint", &[], Endpoint),
];

const WEB: &[Key] = &[key("username", &[], Other), key("password", &[], Other)];

/// Those of any server: of `object_store`'s client, of polars' retries.
const COMMON: &[Key] = &[
    key("allow_http", &[], Other),
    key("allow_invalid_certificates", &[], Other),
    key("connect_timeout", &[], Time),
    key("default_content_type", &[], Other),
    key("http1_only", &[], Other),
    key("http2_only", &[], Other),
    key("http2_keep_alive_interval", &[], Time),
    key("http2_keep_alive_timeout", &[], Time),
    key("http2_keep_alive_while_idle", &[], Other),
    key("http2_max_frame_size", &[], Other),
    key("pool_idle_timeout", &[], Time),
    key("pool_max_idle_per_host", &[], Other),
    key("proxy_url", &[], Other),
    key("proxy_ca_certificate", &[], Other),
    key("proxy_excludes", &[], Other),
    key("randomize_addresses", &[], Other),
    key("timeout", &[], Time),
    key("user_agent", &[], Other),
    key("max_retries", &[], Other),
    key("retry_timeout_ms", &[], Other),
    key("retry_init_backoff_ms", &[], Other),
    key("retry_max_backoff_ms", &[], Other),
    key("retry_base_multiplier", &[], Other),
    key("one_writer", &[], Other),
    // polars keeps downloaded files; nothing is downloaded here.
    key("file_cache_ttl", &[], Other),
];

const CLOUDS: [Cloud; 5] = [Cloud::S3, Cloud::Google, Cloud::Azure, Cloud::Hub, Cloud::Web];

impl Cloud {
    fn keys(self) -> &'static [Key] {
        match self {
            Self::S3 => S3,
            Self::Google => GOOGLE,
            Self::Azure => AZURE,
            Self::Hub => HUB,
            Self::Web => WEB,
        }
    }

    /// What its long names, and the variables of the environment, begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::S3 => "aws_",
            Self::Google => "google_",
            Self::Azure => "azure_",
            Self::Hub => "hf_",
            Self::Web => "http_",
        }
    }

    /// The option that this name, in lower case, means here.
    pub fn find(self, name: &str) -> Option<&'static Key> {
        let is_it = |key: &&Key| key.name == name || key.also.contains(&name);
        let common = name.strip_prefix(self.prefix()).unwrap_or(name);
        self.keys().iter().find(is_it).or_else(|| COMMON.iter().find(|key| key.name == common))
    }
}

/// Whether a name, in lower case, means something to some cloud.
pub fn is_known(name: &str) -> bool {
    CLOUDS.iter().any(|cloud| cloud.find(name).is_some())
}

/// What is told about names that others know, and that have no meaning here.
fn instead(name: &str) -> Option<&'static str> {
    const FSSPEC: &[&str] = &[
        "asynchronous",
        "block_size",
        "cache_regions",
        "cache_timeout",
        "cache_type",
        "check_connection",
        "consistency",
        "default_block_size",
        "default_cache_options",
        "default_cache_type",
        "default_fill_cache",
        "listings_expiry_time",
        "loop",
        "max_concurrency",
        "max_paths",
        "skip_instance_cache",
        "use_listings_cache",
        "version_aware",
    ];
    let first = name.split('.').next().unwrap_or_default();
    Some(match first {
        "credential_provider" => {
            "no function of polars is called for credentials: give what it gives, as storage_options={\
             \"aws_access_key_id\": …, \"aws_secret_access_key\": …, \"aws_session_token\": …}, or {\"bearer_token\": …} for \
             gs:// and az://; or leave it out: the environment, profiles and roles are looked at"
        }
        "credential" => "give \"account_key\", \"sas_token\" or \"bearer_token\" as text",
        "session" => "give \"profile\", or \"key\", \"secret\" and \"token\"",
        "config_kwargs" => "give \"timeout\", \"connect_timeout\", \"max_retries\" or \"virtual_hosted_style_request\"",
        "s3_additional_kwargs" => "give \"server_side_encryption\", \"sse_kms_key_id\" or \"requester_pays\"",
        "client_kwargs" => "of client_kwargs, \"region_name\", \"endpoint_url\", \"use_ssl\" and \"verify\" are known",
        _ if FSSPEC.contains(&first) => "it is about fsspec's own buffers and caches: leave it out",
        _ => return None,
    })
}

/// The error for a name that means nothing to any cloud, with the nearest that does.
pub fn unknown(name: &str) -> DaoError {
    let error = DaoError::value(format!("storage_options[\"{name}\"] is unknown"));
    let name = name.to_lowercase();
    if let Some(hint) = instead(&name) {
        return error.hint(hint);
    }
    let all = CLOUDS.iter().flat_map(|cloud| cloud.keys()).chain(COMMON);
    let names = all.flat_map(|key| std::iter::once(key.name).chain(key.also.iter().copied()));
    let alike = |other: &str| jaro_winkler(&name, other) + normalized_damerau_levenshtein(&name, other);
    let mut near: Vec<(f64, &str)> = names.map(|other| (alike(other), other)).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    near.dedup();
    let near: Vec<String> = near.iter().take(3).map(|(_, name)| format!("\"{name}\"")).collect();
    error.hint(format!("the nearest that are known: {}", near.join(", ")))
}

#[cfg(test)]
mod tests {
    use object_store::aws::AmazonS3ConfigKey;
    use object_store::azure::AzureConfigKey;
    use object_store::gcp::GoogleConfigKey;

    use super::*;

    /// Names that `object_store` is not told, but for what they mean to us.
    const OURS: &[&str] = &[
        "aws_profile",
        "aws_shared_credentials_file",
        "aws_config_file",
        "use_ssl",
        "verify",
        "google_bearer_token",
        "google_token",
        "google_project",
        "azure_storage_connection_string",
    ];

    #[test]
    fn object_store_knows_each_name_and_all_its_spellings_as_the_same() {
        for key in S3.iter().filter(|key| !OURS.contains(&key.name)) {
            let meant: AmazonS3ConfigKey = key.name.parse().unwrap();
            for also in key.also.iter().filter_map(|also| also.parse::<AmazonS3ConfigKey>().ok()) {
                assert_eq!(also, meant, "{}", key.name);
            }
        }
        for key in GOOGLE.iter().filter(|key| !OURS.contains(&key.name)) {
            let meant: GoogleConfigKey = key.name.parse().unwrap();
            for also in key.also.iter().filter_map(|also| also.parse::<GoogleConfigKey>().ok()) {
                assert_eq!(also, meant, "{}", key.name);
            }
        }
        for key in AZURE.iter().filter(|key| !OURS.contains(&key.name)) {
            let meant: AzureConfigKey = key.name.parse().unwrap();
            for also in key.also.iter().filter_map(|also| also.parse::<AzureConfigKey>().ok()) {
                assert_eq!(also, meant, "{}", key.name);
            }
        }
    }

    #[test]
    fn a_name_means_one_thing_to_a_cloud() {
        for cloud in CLOUDS {
            let keys = cloud.keys().iter().chain(COMMON);
            let mut names: Vec<&str> = keys.flat_map(|key| [&[key.name], key.also].concat()).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "{cloud:?}");
        }
    }

    #[test]
    fn unknown_names_come_with_the_nearest() {
        for (name, near) in [
            ("aws_acces_key_id", "\"aws_access_key_id\""),
            ("acount_name", "\"account_name\""),
            ("max_retry", "\"max_retries\""),
            ("AWS_REGOIN", "\"aws_region\""),
            ("credential_provider", "\"aws_session_token\""),
            ("default_block_size", "leave it out"),
            ("client_kwargs.config", "\"region_name\""),
        ] {
            assert!(!is_known(name) && unknown(name).to_string().contains(near), "{}", unknown(name));
        }
    }
}
