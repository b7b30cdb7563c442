//! What is found for options, an environment that is the test's own, and files.

use std::path::Path;

use super::super::super::StorageOptions;
use super::*;
use crate::error::ErrorKind;

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "env-id"), ("AWS_SECRET_ACCESS_KEY", "env-secret")];

fn pairs(pairs: &[(&str, &str)]) -> StorageOptions {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn settle_at(uri: &str, options: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Settings> {
    let cloud = match uri.split("://").next().unwrap() {
        "s3" => Cloud::S3,
        "gs" => Cloud::Google,
        "hf" => Cloud::Hub,
        "http" => Cloud::Web,
        _ => Cloud::Azure,
    };
    settle(cloud, &Url::parse(uri).unwrap(), &pairs(options), &Environment::of(variables))
}

/// The settings that were found, sorted.
fn found(uri: &str, options: &[(&str, &str)], variables: &[(&str, &str)]) -> Vec<(String, String)> {
    let settings = settle_at(uri, options, variables).unwrap();
    let mut all: Vec<_> = settings.0.into_iter().map(|setting| (setting.key.to_owned(), setting.value)).collect();
    all.sort();
    all
}

fn error(uri: &str, options: &[(&str, &str)], variables: &[(&str, &str)]) -> String {
    let error = settle_at(uri, options, variables).err().unwrap();
    assert_ne!(error.kind(), ErrorKind::Internal);
    error.to_string()
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn spellings_of_all_are_one() {
    let wanted = pairs(&[
        ("allow_http", "true"),
        ("aws_access_key_id", "a"),
        ("aws_endpoint_url", "http://h"),
        ("aws_region", "r"),
        ("aws_secret_access_key", "b"),
        ("aws_session_token", "c"),
    ]);
    let object_store = [
        ("aws_access_key_id", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
        ("aws_session_token", "c"),
        ("aws_region", "r"),
        ("aws_endpoint", "http://h"),
    ];
    let short = [
        ("access_key_id", "a"),
        ("secret_access_key", "b"),
        ("session_token", "c"),
        ("region", "r"),
        ("endpoint", "http://h"),
    ];
    let s3fs = [
        ("key", "a"),
        ("secret", "b"),
        ("token", "c"),
        ("client_kwargs.region_name", "r"),
        ("client_kwargs.endpoint_url", "http://h"),
    ];
    for options in [object_store, short, s3fs] {
        assert_eq!(found("s3://b/a", &options, &[]), wanted);
    }
    let adlfs = [("account_name", "n"), ("sas_token", "s"), ("anon", "false")];
    let wanted =
        [("azure_skip_signature", "false"), ("azure_storage_account_name", "n"), ("azure_storage_sas_key", "s")];
    assert_eq!(found("az://c/a", &adlfs, &[]), pairs(&wanted));
    assert_eq!(found("gs://b/a", &[("token", "anon")], &[]), pairs(&[("google_skip_signature", "true")]));
    assert_eq!(found("gs://b/a", &[("token", "ya29.x")], &[]), pairs(&[("google_bearer_token", "ya29.x")]));
    let account = r#"{"type": "service_account"}"#;
    assert_eq!(found("gs://b/a", &[("token", account)], &[]), pairs(&[("google_service_account_key", account)]));
}

#[test]
fn values_have_the_forms_that_people_write() {
    assert_eq!(found("http://h/a", &[("timeout", "1.5")], &[]), pairs(&[("timeout", "1500000us")]));
    assert_eq!(found("http://h/a", &[("timeout", "30 s")], &[]), pairs(&[("timeout", "30 s")]));
    let insecure = [("client_kwargs.verify", "false"), ("use_ssl", "false"), ("anon", "true")];
    let wanted = [("allow_http", "true"), ("allow_invalid_certificates", "true"), ("aws_skip_signature", "true")];
    assert_eq!(found("s3://b/a", &insecure, &[]), pairs(&wanted));
    let said = [("endpoint_url", "http://h"), ("allow_http", "false"), ("anon", "true")];
    assert!(found("s3://b/a", &said, &[]).contains(&("allow_http".to_owned(), "false".to_owned())));
}

#[test]
fn one_dict_serves_several_clouds() {
    let all =
        [("key", "a"), ("secret", "b"), ("account_name", "n"), ("account_key", "k"), ("google_bearer_token", "t")];
    assert_eq!(found("s3://b/a", &all, &[]).len(), 2);
    assert_eq!(found("az://c/a", &all, &[]).len(), 2);
    assert_eq!(found("gs://b/a", &all, &[]).len(), 1);
    assert_eq!(found("http://h/a", &all, &[]).len(), 0);
}

#[test]
fn what_contradicts_itself_is_refused_unseen() {
    for (options, part) in [
        (&[("key", "hush"), ("aws_access_key_id", "hush2"), ("secret", "x")][..], "mean the same"),
        (&[("acces_key_id", "hush")], "\"access_key_id\""),
        (&[("key", "hush")], "storage_options[\"key\"] needs aws_secret_access_key"),
        (&[("secret", "hush")], "storage_options[\"secret\"] needs aws_access_key_id"),
        (&[("token", "hush")], "bearer_token or hf_token"),
        (&[("key", ""), ("secret", "hush")], "storage_options[\"key\"] is empty"),
        (&[("role_arn", "hush")], "aws_web_identity_token_file"),
        (&[("use_ssl", "hush")], "expected true or false"),
    ] {
        let error = error("s3://b/a", options, &[]);
        assert!(error.contains(part) && !error.contains("hush"), "{error}");
    }
    // The same, twice, is no contradiction.
    let twice = [("key", "a"), ("access_key_id", "a"), ("secret", "b")];
    assert_eq!(found("s3://b/a", &twice, &[]).len(), 2);
}

#[test]
fn keys_are_of_one_place() {
    let env = [KEYS[0], KEYS[1], ("AWS_SESSION_TOKEN", "env-token"), ("AWS_DEFAULT_REGION", "here")];
    let wanted = [
        ("aws_access_key_id", "env-id"),
        ("aws_default_region", "here"),
        ("aws_secret_access_key", "env-secret"),
        ("aws_session_token", "env-token"),
    ];
    assert_eq!(found("s3://b/a", &[], &env), pairs(&wanted));
    // The session is not that of the other keys; the region is that of the machine.
    let wanted = [("aws_access_key_id", "a"), ("aws_default_region", "here"), ("aws_secret_access_key", "b")];
    assert_eq!(found("s3://b/a", &[("key", "a"), ("secret", "b")], &env), pairs(&wanted));
    let wanted = [("aws_default_region", "here"), ("aws_skip_signature", "true")];
    assert_eq!(found("s3://b/a", &[("anon", "true")], &env), pairs(&wanted));
    // That somebody is not nobody leaves who it is to the environment.
    assert_eq!(found("s3://b/a", &[("anon", "false")], &env).len(), 5);
    // Half of a pair in the environment is no pair, and the other half in the options makes none.
    assert!(error("s3://b/a", &[], &KEYS[..1]).contains("AWS_ACCESS_KEY_ID needs aws_secret_access_key"));
    assert!(error("s3://b/a", &[("secret", "b")], &KEYS).contains("storage_options[\"secret\"]"));
}

#[test]
fn a_server_and_a_region_are_those_of_the_first_to_name_one() {
    let env =
        [KEYS[0], KEYS[1], ("AWS_ENDPOINT_URL_S3", "https://env"), ("AWS_REGION", "env"), ("AWS_ALLOW_HTTP", "true")];
    let all = found("s3://b/a", &[("endpoint_url", "https://mine"), ("default_region", "mine")], &env);
    let values: Vec<&str> = all.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["true", "env-id", "mine", "https://mine", "env-secret"]);
    let all = found("s3://b/a", &[], &env[..3]);
    assert!(all.contains(&("aws_endpoint_url_s3".to_owned(), "https://env".to_owned())));
}

/// A folder with files of profiles, and the variables that name it.
fn profiles(credentials: &str, config: &str) -> (tempfile::TempDir, String) {
    let home = tempfile::tempdir().unwrap();
    write(&home.path().join(".aws/credentials"), credentials);
    write(&home.path().join(".aws/config"), config);
    let path = home.path().to_str().unwrap().to_owned();
    (home, path)
}

const HOME: &str = if cfg!(windows) { "USERPROFILE" } else { "HOME" };

#[test]
fn profiles_are_read() {
    let (_folder, home) = profiles(
        "[default]\naws_access_key_id = d\naws_secret_access_key = e\n[lab]\naws_access_key_id=l\naws_secret_access_key=m\n\
         aws_session_token=n\n",
        "[default]\nregion = dr\n[profile lab]\nregion = lr\nservices = own\n[services own]\ns3 =\n  endpoint_url = http://h:9\n\
         [profile web]\nrole_arn = arn\nweb_identity_token_file = /t\n[profile both]\naws_access_key_id = b\n\
         aws_secret_access_key = c\ncredential_process = x\nendpoint_url = https://e\n",
    );
    let home = (HOME, home.as_str());
    let usual = [("aws_access_key_id", "d"), ("aws_region", "dr"), ("aws_secret_access_key", "e")];
    assert_eq!(found("s3://b/a", &[], &[home]), pairs(&usual));
    let lab = pairs(&[
        ("allow_http", "true"),
        ("aws_access_key_id", "l"),
        ("aws_endpoint_url", "http://h:9"),
        ("aws_region", "lr"),
        ("aws_secret_access_key", "m"),
        ("aws_session_token", "n"),
    ]);
    assert_eq!(found("s3://b/a", &[], &[home, ("AWS_PROFILE", "lab")]), lab);
    for name in ["profile", "aws_profile"] {
        // A profile that was asked for is before the environment.
        assert_eq!(found("s3://b/a", &[(name, "lab")], &[home, KEYS[0], KEYS[1], ("AWS_REGION", "x")]), lab);
    }
    // Keys of the environment are before a profile that it names; its region counts.
    let all = found("s3://b/a", &[], &[home, KEYS[0], KEYS[1], ("AWS_PROFILE", "lab")]);
    assert!(all.contains(&("aws_access_key_id".to_owned(), "env-id".to_owned())) && !all.iter().any(|(_, v)| v == "n"));
    assert!(all.contains(&("aws_region".to_owned(), "lr".to_owned())));
    let web = [("aws_region", "x"), ("aws_role_arn", "arn"), ("aws_web_identity_token_file", "/t")];
    assert_eq!(found("s3://b/a", &[("profile", "web"), ("region", "x")], &[home]), pairs(&web));
    assert!(
        found("s3://b/a", &[("profile", "both")], &[home])
            .contains(&("aws_endpoint_url".to_owned(), "https://e".to_owned()))
    );
}

#[test]
fn files_of_profiles_may_be_elsewhere() {
    let (folder, home) = profiles("[default]\naws_access_key_id = d\naws_secret_access_key = e\n", "");
    write(&folder.path().join("other"), "[default]\naws_access_key_id = o\naws_secret_access_key = p\n");
    let other = folder.path().join("other").to_str().unwrap().to_owned();
    let wanted = pairs(&[("aws_access_key_id", "o"), ("aws_secret_access_key", "p")]);
    let home = (HOME, home.as_str());
    assert_eq!(found("s3://b/a", &[], &[home, ("AWS_SHARED_CREDENTIALS_FILE", &other)]), wanted);
    assert_eq!(found("s3://b/a", &[("aws_shared_credentials_file", &other)], &[home]), wanted);
}

#[test]
fn profiles_that_cannot_be_used_say_what_to_write() {
    let (folder, home) = profiles(
        "[half]\naws_access_key_id = hush\n",
        "[profile sso]\nsso_session = s\nregion = r\n[profile made]\ncredential_process = hush\n[profile role]\nrole_arn = a\n\
         source_profile = x\n",
    );
    let home = (HOME, home.as_str());
    for (name, part) in [
        ("none", "found half, made, role, sso"),
        ("sso", "sso_session, which is not known here"),
        ("made", "aws configure export-credentials --profile made --format env"),
        ("role", "role_arn, which is not known here"),
        ("half", "needs aws_secret_access_key"),
    ] {
        let error = error("s3://b/a", &[], &[home, ("AWS_PROFILE", name)]);
        assert!(error.contains(part) && !error.contains("hush"), "{error}");
    }
    // Who has keys needs of a profile what it has beside them.
    let all = found("s3://b/a", &[], &[home, KEYS[0], KEYS[1], ("AWS_PROFILE", "sso")]);
    assert!(all.contains(&("aws_region".to_owned(), "r".to_owned())));
    write(&folder.path().join(".aws/credentials"), "[default]\nhush\n");
    let text = error("s3://b/a", &[], &[home]);
    assert!(text.contains("credentials") && text.contains("line 2") && !text.contains("hush"), "{text}");
    // And none that nobody asked for.
    assert_eq!(found("s3://b/a", &[], &[home, KEYS[0], KEYS[1]]).len(), 2);
    std::fs::write(folder.path().join(".aws/credentials"), [0xff, 0xfe]).unwrap();
    assert!(error("s3://b/a", &[], &[home]).contains("UTF-8"));
    std::fs::remove_file(folder.path().join(".aws/credentials")).unwrap();
    std::fs::create_dir(folder.path().join(".aws/credentials")).unwrap();
    assert!(error("s3://b/a", &[], &[home]).contains("reading the file of profiles failed"));
}

#[test]
fn roles_of_containers_are_after_profiles() {
    let role = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2");
    let wanted = [("aws_container_credentials_relative_uri", "/v2")];
    assert_eq!(found("s3://b/a", &[], &[role]), pairs(&wanted));
    let (_folder, home) = profiles("[default]\naws_access_key_id = d\naws_secret_access_key = e\n", "");
    assert!(!found("s3://b/a", &[], &[role, (HOME, &home)]).contains(&pairs(&wanted)[0]));
    assert!(
        error("s3://b/a", &[], &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://x")]).contains("export-credentials")
    );
    let web = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn"), role];
    let wanted = [("aws_role_arn", "arn"), ("aws_web_identity_token_file", "/t")];
    assert_eq!(found("s3://b/a", &[], &web), pairs(&wanted));
    // Alone it means nothing: tools of many kinds set it.
    assert!(found("s3://b/a", &[], &[("AWS_ROLE_ARN", "arn")]).is_empty());
}

#[test]
fn connection_strings_are_taken_apart() {
    let text = "DefaultEndpointsProtocol=https;AccountName=n;AccountKey=hush==;EndpointSuffix=core.windows.net";
    let wanted = [("azure_storage_account_key", "hush=="), ("azure_storage_account_name", "n")];
    for (options, env) in [
        (&[("connection_string", text)][..], &[][..]),
        (&[], &[("AZURE_STORAGE_CONNECTION_STRING", text)]),
        // In the environment the string counts.
        (
            &[],
            &[
                ("AZURE_STORAGE_CONNECTION_STRING", text),
                ("AZURE_STORAGE_ACCOUNT_KEY", "other"),
                ("AZURE_STORAGE_SAS_TOKEN", "s"),
            ],
        ),
        (&[("connection_string", text), ("account_name", "n")], &[]),
    ] {
        assert_eq!(found("az://c/a", options, env), pairs(&wanted));
    }
    let azurite = "AccountName=n;AccountKey=k;BlobEndpoint=http://127.0.0.1:1/n/;QueueEndpoint=http://127.0.0.1:2/n;";
    let wanted = [
        ("allow_http", "true"),
        ("azure_storage_account_key", "k"),
        ("azure_storage_account_name", "n"),
        ("azure_storage_endpoint", "http://127.0.0.1:1/n"),
    ];
    assert_eq!(found("az://c/a", &[("connection_string", azurite)], &[]), pairs(&wanted));
    let signed = "BlobEndpoint=https://n.blob.core.chinacloudapi.cn/;SharedAccessSignature=sv=1&sig=x%3D";
    let all = found("az://c/a", &[("connection_string", signed)], &[]);
    assert!(all.contains(&("azure_storage_sas_key".to_owned(), "sv=1&sig=x%3D".to_owned())), "{all:?}");
    assert!(all.contains(&("azure_storage_account_name".to_owned(), "n".to_owned())));
    for (text, part) in [("hush", "no connection string"), ("AccountKey=hush", "names no account")] {
        let error = error("az://c/a", &[("connection_string", text)], &[]);
        assert!(error.contains(part) && !error.contains("hush"), "{error}");
    }
    let text = error("az://c/a", &[("connection_string", text), ("account_name", "m")], &[]);
    assert!(text.contains("differ in azure_storage_account_name"), "{text}");
}

#[test]
fn keys_of_one_account_are_not_given_to_another() {
    let env = [("AZURE_STORAGE_ACCOUNT_NAME", "mine"), ("AZURE_STORAGE_ACCOUNT_KEY", "k"), ("AZURE_CLIENT_ID", "c")];
    assert_eq!(found("az://c/a", &[], &env).len(), 3);
    let principal = pairs(&[("azure_storage_client_id", "c")]);
    assert_eq!(found("abfss://c@other.dfs.core.windows.net/a", &[], &env), principal);
    assert_eq!(found("https://other.blob.core.windows.net/c/a", &[], &env), principal);
    assert_eq!(found("abfss://c@mine.dfs.core.windows.net/a", &[], &env).len(), 3);
    let other = found("az://c/a", &[("account_name", "other")], &env);
    assert_eq!(other, pairs(&[("azure_storage_account_name", "other"), ("azure_storage_client_id", "c")]));
    assert!(error("az://c/a", &[("account_key", "hush")], &[]).contains("AZURE_STORAGE_ACCOUNT_NAME"));
    // Spellings of the Azure CLI.
    let cli = [("AZURE_STORAGE_ACCOUNT", "n"), ("AZURE_STORAGE_KEY", "k")];
    let wanted = [("azure_storage_account_key", "k"), ("azure_storage_account_name", "n")];
    assert_eq!(found("az://c/a", &[], &cli), pairs(&wanted));
}

#[test]
fn the_azure_cli_is_asked_where_somebody_logged_in() {
    let home = tempfile::tempdir().unwrap();
    let env = [("AZURE_CONFIG_DIR", home.path().to_str().unwrap())];
    let place = "abfss://c@n.dfs.core.windows.net/a";
    assert!(found(place, &[], &env).is_empty());
    write(&home.path().join("azureProfile.json"), "{}");
    assert_eq!(found(place, &[], &env), pairs(&[("azure_use_azure_cli", "true")]));
    assert_eq!(found(place, &[("account_key", "k")], &env), pairs(&[("azure_storage_account_key", "k")]));
    let identity = [env[0], ("IDENTITY_ENDPOINT", "http://x")];
    assert_eq!(found(place, &[], &identity), pairs(&[("azure_msi_endpoint", "http://x")]));
}

#[test]
fn files_of_google_are_looked_into() {
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        write(&home.path().join(name), text);
        home.path().join(name).to_str().unwrap().to_owned()
    };
    let user = file("user", r#"{"type": "authorized_user"}"#);
    let account = file("account", r#"{"type": "service_account"}"#);
    let external = file("external", r#"{"type": "external_account", "x": "hush"}"#);
    let broken = file("broken", "hush");
    let name = "google_application_credentials";
    assert_eq!(found("gs://b/a", &[(name, &user)], &[]), pairs(&[(name, &user)]));
    assert_eq!(found("gs://b/a", &[("token", &user)], &[]), pairs(&[(name, &user)]));
    assert_eq!(found("gs://b/a", &[], &[("GOOGLE_APPLICATION_CREDENTIALS", &account)]), pairs(&[(name, &account)]));
    let of_account = pairs(&[("google_service_account", &account)]);
    assert_eq!(found("gs://b/a", &[], &[("GOOGLE_SERVICE_ACCOUNT", &account)]), of_account);
    for (path, part) in [
        (external.as_str(), "found external_account"),
        (&broken, "no JSON"),
        ("/there/is/none.json", "no such file of credentials"),
    ] {
        let error = error("gs://b/a", &[], &[("GOOGLE_APPLICATION_CREDENTIALS", path)]);
        assert!(error.contains(part) && error.contains(path) && !error.contains("hush"), "{error}");
        assert!(error.contains("the environment variable GOOGLE_APPLICATION_CREDENTIALS"), "{error}");
    }
    // Whoever is nobody, or has a token, needs no file.
    let env = [("GOOGLE_APPLICATION_CREDENTIALS", broken.as_str())];
    assert_eq!(found("gs://b/a", &[("anon", "true")], &env), pairs(&[("google_skip_signature", "true")]));
    assert_eq!(found("gs://b/a", &[("bearer_token", "t")], &env), pairs(&[("google_bearer_token", "t")]));
    assert!(error("gs://b/a", &[("token", "browser")], &[]).contains("gcloud auth"));
}

#[test]
fn logins_of_gcloud_are_found() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("application_default_credentials.json");
    let env = [("CLOUDSDK_CONFIG", home.path().to_str().unwrap())];
    assert!(found("gs://b/a", &[], &env).is_empty());
    write(&path, r#"{"type": "authorized_user"}"#);
    let wanted = [("google_application_credentials", path.to_str().unwrap())];
    assert_eq!(found("gs://b/a", &[], &env), pairs(&wanted));
    assert_eq!(found("gs://b/a", &[("token", "google_default")], &env), pairs(&wanted));
    let emulator = [env[0], ("STORAGE_EMULATOR_HOST", "127.0.0.1:1")];
    let wanted = [("allow_http", "true"), ("google_base_url", "http://127.0.0.1:1"), ("google_skip_signature", "true")];
    assert_eq!(found("gs://b/a", &[], &emulator), pairs(&wanted));
}

#[test]
fn the_token_of_the_hub_is_found() {
    let place = "hf://datasets/o/n/a";
    let home = tempfile::tempdir().unwrap();
    let env = [("HF_HOME", home.path().to_str().unwrap())];
    assert!(found(place, &[], &env).is_empty());
    write(&home.path().join("token"), "file-token\n");
    assert_eq!(found(place, &[], &env), pairs(&[("hf_token", "file-token")]));
    assert_eq!(found(place, &[("token", "true")], &env), pairs(&[("hf_token", "file-token")]));
    let both = [env[0], ("HF_TOKEN", "env-token")];
    assert_eq!(found(place, &[], &both), pairs(&[("hf_token", "env-token")]));
    assert_eq!(found(place, &[("token", "mine")], &both), pairs(&[("hf_token", "mine")]));
    for nobody in [("token", "false"), ("anon", "true")] {
        assert!(found(place, &[nobody], &both).is_empty());
    }
    assert!(found(place, &[], &[both[0], both[1], ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).is_empty());
    let elsewhere = [env[0], ("HF_TOKEN_PATH", "/there/is/none")];
    assert!(found(place, &[], &elsewhere).is_empty());
}

#[test]
fn advice_says_who_was_asked_as_and_not_with_what() {
    let settings = settle_at("s3://b/a", &[("key", "a"), ("secret", "hush")], &[]).unwrap();
    let text = advice(Cloud::S3, &settings);
    assert!(text.contains("storage_options[\"key\"]") && !text.contains("hush"), "{text}");
    let nobody = settle_at("s3://b/a", &[], &[]).unwrap();
    assert!(advice(Cloud::S3, &nobody).contains("{\"anon\": True}"));
    let shown = format!("{:?}", settings.0);
    assert!(!shown.contains("hush"), "{shown}");
}
