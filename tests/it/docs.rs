//! What `docs/webhooks.md` shows in five languages is run as it stands there.

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

use crate::delivery::{answer_one, endpoint};
use crate::harness::{Receiver, Server, Webhook, run};

const PAGE: &str = include_str!("../../docs/webhooks.md");
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The page's only block in a language.
fn block(language: &str) -> &'static str {
    let fence = format!("```{language}\n");
    let after = PAGE.split(&fence).nth(1).unwrap_or_else(|| panic!("the page has a block in {language}"));
    after.split("\n```").next().expect("a block ends")
}

/// A program around the shown function: headers as JSON in the first argument,
/// the body on standard input; ends with 0 when it verifies.
fn program(language: &str, dir: &Path) -> (String, Vec<String>) {
    let shown = block(language);
    let (file, text, command): (&str, String, &[&str]) = match language {
        "python" => (
            "v.py",
            format!(
                "{shown}\nimport json, sys\nsys.exit(0 if verify('{SECRET}', json.loads(sys.argv[1]), sys.stdin.buffer.read()) else 1)\n"
            ),
            &["python3", "v.py"],
        ),
        "javascript" => (
            "v.js",
            format!(
                "{shown}\nprocess.exit(verify('{SECRET}', JSON.parse(process.argv[2]), require('fs').readFileSync(0)) ? 0 : 1);\n"
            ),
            &["node", "v.js"],
        ),
        "go" => (
            "v.go",
            format!(
                "package main\nimport (\"crypto/hmac\"; \"crypto/sha256\"; \"encoding/base64\"; \"encoding/json\"; \"fmt\"; \"io\"; \"math\"; \"net/http\"; \"os\"; \"strconv\"; \"strings\"; \"time\")\n{shown}\n\
                 func main() {{\n var h map[string]string\n json.Unmarshal([]byte(os.Args[1]), &h)\n header := http.Header{{}}\n for n, v := range h {{ header.Set(n, v) }}\n\
                 body, _ := io.ReadAll(os.Stdin)\n if !verify(\"{SECRET}\", header, body) {{ os.Exit(1) }}\n}}\n"
            ),
            &["go", "run", "v.go"],
        ),
        "java" => (
            "V.java",
            format!(
                "import java.nio.charset.StandardCharsets;\nimport java.security.MessageDigest;\nimport java.util.*;\nimport javax.crypto.Mac;\nimport javax.crypto.spec.SecretKeySpec;\n\
                 public class V {{\n{shown}\npublic static void main(String[] a) throws Exception {{\n Map<String, String> h = new HashMap<>();\n\
                 for (String pair : a[0].substring(1, a[0].length() - 1).split(\"\\\",\\\"\")) {{ String[] p = pair.split(\"\\\":\\\"\", 2); h.put(p[0].replace(\"\\\"\", \"\"), p[1].replaceAll(\"\\\"$\", \"\")); }}\n\
                 System.exit(verify(\"{SECRET}\", h, System.in.readAllBytes()) ? 0 : 1);\n}}\n}}\n"
            ),
            &["java", "V.java"],
        ),
        _ => (
            "v.sh",
            format!("secret={SECRET}\nid=$2 timestamp=$3 signatures=$4\ncat > body.json\n{shown}\n"),
            &["sh", "v.sh"],
        ),
    };
    std::fs::write(dir.join(file), text).expect("written");
    (command[0].to_owned(), command[1..].iter().map(|part| (*part).to_owned()).collect())
}

fn verifies(language: &str, webhook: &Webhook, body: &[u8]) -> bool {
    let dir = tempfile::tempdir().expect("a folder");
    let (name, mut arguments) = program(language, dir.path());
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let headers: Value = names.iter().map(|name| ((*name).to_owned(), Value::from(webhook.header(name)))).collect();
    arguments.push(headers.to_string());
    arguments.extend(names.map(|name| webhook.header(name).to_owned()));
    let mut command = format!("cd '{}' && exec {name}", dir.path().display());
    for argument in &arguments {
        command.push_str(&format!(" '{argument}'"));
    }
    let (fine, said) = run("sh", &["-c", &command], &String::from_utf8_lossy(body));
    assert!(
        fine || said.is_empty() || said.contains("not genuine") || said.contains("exit status 1"),
        "{language}: {said}"
    );
    fine
}

#[tokio::test]
async fn every_language_verifies_what_comes_and_nothing_else() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    endpoint(&server, &receiver, json!({"secret": SECRET})).await;
    // Two signatures, the new one first.
    let said =
        server.call(&server.admin, reqwest::Method::POST, "/v1/endpoints/crm/rotate-secret", Some(&json!({}))).await;
    assert_eq!(said.status, 200);
    answer_one(&server, "ann").await;
    let webhook = receiver.wait(1).await[0].clone();
    let tampered = [&webhook.body[..webhook.body.len() - 1], b" }"].concat();
    for language in ["python", "javascript", "go", "java", "sh"] {
        assert!(verifies(language, &webhook, &webhook.body), "{language}");
        assert!(!verifies(language, &webhook, &tampered), "{language}: another body");
    }
}

/// `script/examples` runs them; here they are held against the page.
#[test]
fn the_examples_verify_as_the_page_does() {
    for (language, example) in [
        ("python", include_str!("../../examples/python/receive.py")),
        ("javascript", include_str!("../../examples/node/receive.mjs")),
        ("go", include_str!("../../examples/go/receive/main.go")),
        ("java", include_str!("../../examples/java/Receive.java")),
    ] {
        let lines = |text: &str| text.lines().map(|line| line.trim().to_owned() + "\n").collect::<String>();
        let start = block(language).find("verify(").expect("the page shows a function");
        assert!(lines(example).contains(&lines(&block(language)[start..])), "{language}");
    }
}

#[test]
fn every_example_of_the_page_is_valid() {
    let dir = tempfile::tempdir().expect("a folder");
    let blocks: Vec<&str> = PAGE.split("```yaml\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect();
    assert!(blocks.len() >= 3);
    std::fs::write(dir.path().join("all.yaml"), blocks.join("\n---\n")).expect("written");
    let out = Command::new(crate::harness::BINARY)
        .args(["validate", "-f", "all.yaml"])
        .current_dir(dir.path())
        .output()
        .expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// What receivers of every profile get is what the page shows.
#[tokio::test]
async fn bodies_of_every_profile_are_those_of_the_page() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    let survey = json!({"name": "Sleep quality", "status": "active", "activate": {"event": "ended_sleep"},
        "expires_after": "2h", "show_on": [{"trigger": "MainActivity"}],
        "questions": [{"question_id": "q1", "type": "rating_star", "text": "How did you sleep?"},
            {"question_id": "q2", "type": "single_choice", "text": "Were you alone?", "options": ["Yes", "No"]}]});
    server.put("/v1/surveys/sleep-quality", survey).await;
    for (profile, events) in [
        ("standard", "response.completed"),
        ("blitzllama", "response.*"),
        ("1flow", "response.completed"),
        ("slack", "response.completed"),
    ] {
        let body = json!({"url": receiver.url, "profile": profile, "events": [events]});
        server.put(&format!("/v1/endpoints/to-{profile}"), body).await;
    }
    server
        .call(&server.server, reqwest::Method::PUT, "/v1/users/ann", Some(&json!({"attributes": {"plan": "pro"}})))
        .await;
    server.event("ann", "ended_sleep", json!({"duration_min": 415})).await;
    let context = json!({"context": {"platform": "web", "locale": "en-GB"}});
    let decision = server.post("/v1/users/ann/triggers/MainActivity", context).await.body;
    let offer = decision["survey"]["offer_id"].as_str().expect("an offer");
    let answers = json!({"answers": [{"question_id": "q1", "value": 4}, {"question_id": "q2", "value": "Yes"}], "completed": true});
    assert_eq!(server.post(&format!("/v1/users/ann/offers/{offer}/answers"), answers).await.status, 200);
    // Two answers and a group for one profile, one message for each of the others.
    let came: Vec<Value> = receiver.wait(6).await.iter().map(Webhook::json).collect();
    for name in ["standard", "blitzllama", "blitzllama-answer", "1flow", "slack"] {
        let fence = format!("```json {name}\n");
        let shown = PAGE.split(&fence).nth(1).and_then(|rest| rest.split("\n```").next()).expect("a block");
        let shown: Value = serde_json::from_str(shown).unwrap_or_else(|e| panic!("{name}: {e}"));
        let differ: Vec<String> =
            came.iter().filter_map(|body| crate::api_page::difference(&shown, body, "")).collect();
        assert!(differ.len() < came.len(), "{name}: {differ:#?}");
    }
}

const WEB_APP: &str = include_str!("../../docs/web-app.md");
const IDENTITY_SECRET: &str = "a long random text for signatures";

/// A program that prints what the page's function signs: the secret and the user's id
/// are its arguments.
fn signer(language: &str, dir: &Path) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let after = WEB_APP.split(&fence).nth(1).unwrap_or_else(|| panic!("the page has a block in {language}"));
    let shown = after.split("\n```").next().expect("a block ends");
    let (file, text, command): (&str, String, &[&str]) = match language {
        "python" => ("s.py", format!("{shown}\nimport sys\nprint(sign(*sys.argv[1:]))\n"), &["python3", "s.py"]),
        "javascript" => ("s.js", format!("{shown}\nconsole.log(sign(...process.argv.slice(2)));\n"), &["node", "s.js"]),
        "go" => (
            "s.go",
            format!(
                "package main\nimport (\"crypto/hmac\"; \"crypto/sha256\"; \"encoding/hex\"; \"fmt\"; \"os\")\n{shown}\n\
                 func main() {{ fmt.Println(sign(os.Args[1], os.Args[2])) }}\n"
            ),
            &["go", "run", "s.go"],
        ),
        "java" => (
            "S.java",
            format!(
                "import java.nio.charset.StandardCharsets;\nimport java.util.HexFormat;\nimport javax.crypto.Mac;\n\
                 import javax.crypto.spec.SecretKeySpec;\npublic class S {{\n{shown}\n\
                 public static void main(String[] a) throws Exception {{ System.out.println(sign(a[0], a[1])); }}\n}}\n"
            ),
            &["java", "S.java"],
        ),
        _ => ("s.sh", format!("{shown}\nsign \"$1\" \"$2\"\n"), &["sh", "s.sh"]),
    };
    std::fs::write(dir.join(file), text).expect("written");
    command.to_vec()
}

#[tokio::test]
async fn every_language_signs_who_the_user_is() {
    let folder = std::sync::Arc::new(tempfile::tempdir().expect("a folder"));
    let config = format!("[[projects]]\nproject = \"default\"\nidentity_secret = [\"{IDENTITY_SECRET}\"]\n");
    std::fs::write(folder.path().join("askwhen.toml"), config).expect("written");
    let server = Server::on(folder, &["--dev"], &[]).await;
    let ask = async |user: &str, signature: &str| {
        let path = format!("/v1/users/{}/triggers/Main", user.replace(' ', "%20"));
        let request = server.request(reqwest::Method::POST, &path).bearer_auth(&server.client);
        Server::said(request.header("x-user-signature", signature)).await.status
    };
    for language in ["python", "javascript", "go", "java", "sh"] {
        let dir = tempfile::tempdir().expect("a folder");
        let command = signer(language, dir.path());
        for user in ["ann", "jürgen müller"] {
            let out = Command::new(command[0])
                .args(&command[1..])
                .args([IDENTITY_SECRET, user])
                .current_dir(dir.path())
                .env("LC_ALL", "C.UTF-8")
                .output()
                .expect("it runs");
            assert!(out.status.success(), "{language}: {}", String::from_utf8_lossy(&out.stderr));
            let signature = String::from_utf8_lossy(&out.stdout).trim().to_owned();
            assert_eq!(ask(user, &signature).await, 200, "{language} signs {user} as {signature}");
            assert_eq!(ask("somebody else", &signature).await, 401, "{language}");
        }
    }
}
