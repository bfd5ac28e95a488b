//! The recipe with everything embedded: four WebSocket servers on this machine, their manifests, and a page that talks to them.
//!
//! It never knows how they are proxied: it starts the servers and hands over YAML, as a user would. `app` calls it for `carrick demo`, and
//! for `carrick echo`, which is one such server alone.

mod server;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use server::{Room, serve};

const RECIPE: &str = include_str!("../../examples/recipe.yaml");
const INDEX: &str = include_str!("page/index.html");
const SCRIPT: &str = include_str!("page/demo.js");

/// The four servers; they end when this is dropped.
pub struct Servers {
    servers: Vec<Server>,
    _tasks: JoinSet<()>,
}

struct Server {
    name: &'static str,
    /// The Services that have it as an endpoint.
    services: [&'static str; 2],
    address: SocketAddr,
}

/// Starts the servers on free ports of loopback: `app-1` and `app-2` echo, `chat-1` and `chat-2` are a chat room each.
pub async fn servers() -> io::Result<Servers> {
    let mut servers = Vec::new();
    let mut tasks = JoinSet::new();
    for (name, service) in [("app-1", "app"), ("app-2", "app"), ("chat-1", "chat"), ("chat-2", "chat")] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        servers.push(Server { name, services: [service, "all"], address: listener.local_addr()? });
        let room = if service == "app" { Room::echo(name) } else { Room::chat(name) };
        tasks.spawn(serve(listener, room));
    }
    Ok(Servers { servers, _tasks: tasks })
}

/// Serves as one of the four until dropped: echoes, or with `chat` is a room.
pub async fn serve_alone(listener: TcpListener, name: &str, chat: bool) {
    serve(listener, if chat { Room::chat(name) } else { Room::echo(name) }).await;
}

/// The recipe's manifests, with these servers as endpoints, the demo's page, and `tcp_port` in the place of 9000.
pub fn manifests(servers: &Servers, tcp_port: u16) -> String {
    let ours = |document: &&str| !document.contains("\nkind: ConfigMap\n") && !document.contains("\nkind: Deployment\n");
    let recipe = RECIPE.split("\n---\n").filter(ours);
    let recipe = recipe.map(|document| document.replace("- port: 9000 ", &format!("- port: {tcp_port} ")));
    let endpoints = servers.servers.iter().flat_map(|server| server.services.map(|service| endpoint_slice(server, service).to_string()));
    let page = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "page"},
        "data": {"index.html": INDEX, "demo.js": SCRIPT},
    });
    // JSON is YAML.
    recipe.chain(endpoints).chain([page.to_string()]).collect::<Vec<_>>().join("\n---\n")
}

/// Servers listen on different ports, so each is a slice of its own.
fn endpoint_slice(server: &Server, service: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-{}", server.name), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "ws", "port": server.address.port(), "protocol": "TCP"}],
        "endpoints": [{
            "addresses": [server.address.ip()],
            "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": server.name, "namespace": "default"},
        }],
    })
}

/// What to open and what to try, once the proxy listens there.
pub fn welcome(http: Option<SocketAddr>, tcp_port: u16) -> String {
    let http = http.map_or("localhost".to_owned(), |address| format!("localhost:{}", address.port()));
    format!(
        "\
Carrick runs the recipe.

  the page              http://{http}/
  two echo servers      ws://{http}/wsapp
  two chat servers      ws://{http}/wschat
  all four, layer 4     ws://localhost:{tcp_port}/

Try it:  npx -y wscat -c ws://{http}/wschat     (or: python3 -m websockets ws://{http}/wschat)
End it:  Ctrl-C; every socket gets a Close first.
"
    )
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::{
        client_async,
        tungstenite::{Message, client::IntoClientRequest as _, protocol::frame::coding::CloseCode},
    };

    use super::*;

    type Client = tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>;

    async fn connect(servers: &Servers, name: &str, subprotocol: Option<&'static str>) -> Client {
        let server = servers.servers.iter().find(|server| server.name == name).unwrap();
        let socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let mut request = format!("ws://{}/wsapp", server.address).into_client_request().unwrap();
        if let Some(subprotocol) = subprotocol {
            request.headers_mut().insert("Sec-WebSocket-Protocol", subprotocol.parse().unwrap());
        }
        client_async(request, socket).await.unwrap().0
    }

    async fn text(client: &mut Client) -> String {
        client.next().await.unwrap().unwrap().into_text().unwrap().to_string()
    }

    #[tokio::test]
    async fn a_plain_client_gets_its_messages_back_as_they_were() {
        let servers = servers().await.unwrap();
        let mut client = connect(&servers, "app-1", None).await;
        for message in [Message::text("hello"), Message::binary(vec![0u8; 100_000])] {
            client.send(message.clone()).await.unwrap();
            assert_eq!(client.next().await.unwrap().unwrap(), message);
        }
    }

    #[tokio::test]
    async fn the_page_is_told_who_answers() {
        let servers = servers().await.unwrap();
        let mut client = connect(&servers, "app-2", Some(server::SUBPROTOCOL)).await;
        assert_eq!(text(&mut client).await, r#"{"server":"app-2"}"#);
        client.send(Message::text(r#"{"text":"hello"}"#)).await.unwrap();
        assert_eq!(text(&mut client).await, r#"{"server":"app-2","text":"hello"}"#);
    }

    #[tokio::test]
    async fn a_chat_server_repeats_a_message_to_everybody_in_its_room() {
        let servers = servers().await.unwrap();
        let mut plain = connect(&servers, "chat-1", None).await;
        let mut page = connect(&servers, "chat-1", Some(server::SUBPROTOCOL)).await;
        assert_eq!(text(&mut page).await, r#"{"server":"chat-1"}"#);
        page.send(Message::text(r#"{"text":"hello"}"#)).await.unwrap();
        assert_eq!(text(&mut plain).await, "hello");
        assert_eq!(text(&mut page).await, r#"{"server":"chat-1","text":"hello"}"#);
    }

    #[tokio::test]
    async fn the_page_may_have_its_socket_closed_or_dropped() {
        let servers = servers().await.unwrap();
        let mut closed = connect(&servers, "app-1", Some(server::SUBPROTOCOL)).await;
        text(&mut closed).await;
        closed.send(Message::text(r#"{"do":"close"}"#)).await.unwrap();
        let Message::Close(Some(frame)) = closed.next().await.unwrap().unwrap() else { panic!("no Close") };
        assert_eq!(frame.code, CloseCode::Library(4000));

        let mut dropped = connect(&servers, "app-1", Some(server::SUBPROTOCOL)).await;
        text(&mut dropped).await;
        dropped.send(Message::text(r#"{"do":"vanish"}"#)).await.unwrap();
        assert!(!matches!(dropped.next().await, Some(Ok(_))), "no Close");
    }

    #[tokio::test]
    async fn a_plain_get_names_the_server() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let servers = servers().await.unwrap();
        let mut socket = tokio::net::TcpStream::connect(servers.servers[3].address).await.unwrap();
        socket.write_all(b"GET /wschat HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("\r\nserver: chat-2\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nchat-2 answers GET /wschat\n"), "{answer}");
    }

    #[tokio::test]
    async fn the_manifests_are_the_recipe_with_these_servers() {
        let servers = servers().await.unwrap();
        let text = manifests(&servers, 9123);
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let of = |kind: &str| documents.iter().filter(|document| document["kind"] == kind).collect::<Vec<_>>();
        assert_eq!(of("Service").len(), 3);
        assert!(of("Deployment").is_empty(), "these servers are no pods");
        assert_eq!(of("WsRoute")[0]["spec"]["tcp"][0]["port"], 9123);
        let [page] = of("ConfigMap")[..] else { panic!("one page") };
        assert_eq!(page["data"]["index.html"], INDEX);
        let mut endpoints: Vec<_> =
            of("EndpointSlice").iter().map(|slice| slice["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        endpoints.sort();
        assert_eq!(
            endpoints,
            ["all-app-1", "all-app-2", "all-chat-1", "all-chat-2", "app-app-1", "app-app-2", "chat-chat-1", "chat-chat-2"]
        );
    }

    #[test]
    fn the_welcome_names_the_bound_ports() {
        let text = welcome(Some("127.0.0.1:8081".parse().unwrap()), 9001);
        assert!(text.contains("http://localhost:8081/\n") && text.contains("ws://localhost:9001/\n"), "{text}");
    }
}
