//! Apache Kafka, one node in KRaft mode, from the jars that `make setup` fetches.
//!
//! Three listeners: PLAINTEXT, whose users may do all; SASL_SSL, whose user `relay` (PLAIN and SCRAM) needs access rules; and
//! SSL, which asks for a certificate.
//! Topics are not created by themselves.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::certificates::Certificates;
use super::process::Process;
use super::proxy::Proxy;
use super::{DEADLINE, START_DEADLINE, eventually, free_port};

/// User of the SASL_SSL listener, and the passwords for PLAIN and for SCRAM.
pub(crate) const SASL_USER: &str = "relay";
pub(crate) const SASL_PASSWORD: &str = "relay-secret";
pub(crate) const SCRAM_PASSWORD: &str = "scrambled-secret";

pub(crate) struct Kafka {
    folder: TempDir,
    port: u16,
    sasl_port: u16,
    tls_port: u16,
    /// A PLAINTEXT listener, and the proxy before it: clients are told the proxy's address.
    proxied: Option<(u16, Proxy)>,
    certificates: Certificates,
    process: Option<Process>,
}

/// What a consumer has read.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) key: String,
    pub(crate) timestamp: Option<i64>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) payload: Vec<u8>,
}

impl Record {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

impl Kafka {
    /// A broker of the test's own.
    pub(crate) async fn start() -> Kafka {
        Kafka::start_with(None).await
    }

    /// A broker with a further listener behind a proxy.
    pub(crate) async fn start_behind_proxy() -> Kafka {
        let port = free_port();
        let proxy = Proxy::start(&format!("127.0.0.1:{port}")).await;
        Kafka::start_with(Some((port, proxy))).await
    }

    async fn start_with(proxied: Option<(u16, Proxy)>) -> Kafka {
        let folder = tempfile::Builder::new().prefix("ccrelay-kafka-").tempdir().expect("a folder");
        let certificates = Certificates::create(folder.path());
        let (port, sasl_port, tls_port) = (free_port(), free_port(), free_port());
        let mut kafka = Kafka { folder, port, sasl_port, tls_port, proxied, certificates, process: None };
        kafka.write_configuration(free_port());
        kafka.format();
        kafka.start_again().await;
        kafka
    }

    /// The broker that tests share which leave it alone. It ends with the test binary.
    pub(crate) async fn shared() -> &'static Kafka {
        static SHARED: OnceCell<Kafka> = OnceCell::const_new();
        SHARED.get_or_init(Kafka::start).await
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The proxy before the further listener.
    pub(crate) fn proxy(&self) -> &Proxy {
        &self.proxied.as_ref().expect("the broker was started behind a proxy").1
    }

    pub(crate) fn sasl_address(&self) -> String {
        format!("127.0.0.1:{}", self.sasl_port)
    }

    /// The listener that asks for a certificate.
    pub(crate) fn tls_address(&self) -> String {
        format!("127.0.0.1:{}", self.tls_port)
    }

    pub(crate) fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Ends the broker in good order.
    pub(crate) async fn stop(&mut self) {
        self.take().end(Signal::SIGTERM).await;
    }

    pub(crate) async fn kill9(&mut self) {
        self.take().end(Signal::SIGKILL).await;
    }

    pub(crate) fn pause(&self) {
        self.running().signal(Signal::SIGSTOP);
    }

    pub(crate) fn resume(&self) {
        self.running().signal(Signal::SIGCONT);
    }

    /// Starts a stopped broker on its old address and waits until it answers.
    pub(crate) async fn start_again(&mut self) {
        assert!(self.process.is_none(), "the broker is running");
        let command = self.java("kafka.Kafka", &[self.path("server.properties")]);
        let process = Process::start(self.folder.path(), &command);
        let begin = Instant::now();
        while !self.answers().await {
            process.assert_alive();
            assert!(begin.elapsed() < START_DEADLINE, "Kafka does not answer:\n{}", process.log_tail());
        }
        self.process = Some(process);
    }

    pub(crate) async fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> =
            self.client_config().create().expect("an admin client");
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in configs {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(DEADLINE));
        let created = admin.create_topics([&topic], &options).await.expect("the broker answers");
        created.into_iter().next().expect("one result").expect("the topic is created");
        // The broker that created it may not be the last to know of it.
        let config = self.client_config();
        eventually("the topic", DEADLINE, || topic_partitions(config.clone(), name.to_owned(), partitions))
            .await;
    }

    /// Lets the SASL user write to `topic`.
    pub(crate) async fn allow(&self, topic: &str) {
        let arguments = ["--bootstrap-server", &self.address(), "--add", "--allow-principal"]
            .into_iter()
            .chain(["User:relay", "--operation", "All", "--topic", topic])
            .map(str::to_owned)
            .collect::<Vec<_>>();
        let command = self.java("org.apache.kafka.tools.AclCommand", &arguments);
        tokio::task::spawn_blocking(move || run(&command)).await.expect("the command runs");
    }

    /// All records of `topic`, partition by partition in their order.
    pub(crate) async fn read_all(&self, topic: &str) -> Vec<Record> {
        let (config, topic) = (self.client_config(), topic.to_owned());
        tokio::task::spawn_blocking(move || read_all(&config, &topic)).await.expect("the reader ends")
    }

    /// What a client of the test's own, on no proxy, is configured with.
    pub(crate) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address());
        config.set("group.id", "ccrelay-tests").set("enable.partition.eof", "true");
        config.set("enable.auto.commit", "false").set("log_level", "0");
        config
    }

    async fn answers(&self) -> bool {
        let config = self.client_config();
        let asked = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.create().expect("a consumer");
            consumer.fetch_metadata(None, Duration::from_millis(500)).is_ok_and(|m| !m.brokers().is_empty())
        });
        asked.await.expect("the question ends")
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the broker is running")
    }

    fn take(&mut self) -> Process {
        self.process.take().expect("the broker is running")
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("a plain path").to_owned()
    }

    /// Runs a tool of Kafka that is to be as fast as it can be to its end, and gives what it said.
    pub(crate) fn tool(&self, class: &str, arguments: &[&str]) -> String {
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        run(&self.java_with(&["-Xmx512m"], class, &arguments))
    }

    /// What is to be there soon rather than fast later.
    fn java(&self, class: &str, arguments: &[String]) -> Vec<String> {
        let flags = ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
        self.java_with(&flags, class, arguments)
    }

    fn java_with(&self, flags: &[&str], class: &str, arguments: &[String]) -> Vec<String> {
        let mut command = vec!["java".to_owned()];
        command.extend(flags.iter().map(|flag| (*flag).to_owned()));
        command.push(format!("-Dlog4j2.configurationFile={}", self.path("log4j2.properties")));
        command.extend(["-cp".to_owned(), format!("{}/*", library().display()), class.to_owned()]);
        command.extend_from_slice(arguments);
        command
    }

    fn format(&self) {
        let id = run(&self.java("kafka.tools.StorageTool", &["random-uuid".to_owned()]));
        let properties = self.path("server.properties");
        let mut arguments = ["format", "-t", id.trim(), "-c", &properties].to_vec();
        let users = ["256", "512"]
            .map(|bits| format!("SCRAM-SHA-{bits}=[name={SASL_USER},password={SCRAM_PASSWORD}]"));
        arguments.extend(users.iter().flat_map(|user| ["--add-scram", user]));
        let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
        run(&self.java("kafka.tools.StorageTool", &arguments));
    }

    fn write_configuration(&self, controller_port: u16) {
        let (port, sasl_port, tls_port) = (self.port, self.sasl_port, self.tls_port);
        const SCRAM: &str = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        let (folder, ca) = (self.path("data"), self.certificates.ca.display());
        let both = self.certificates.both.display();
        let (mut listeners, mut advertised, mut protocols) = (String::new(), String::new(), "");
        if let Some((port, proxy)) = &self.proxied {
            listeners = format!(",PROXIED://127.0.0.1:{port}");
            advertised = format!(",PROXIED://127.0.0.1:{}", proxy.port());
            protocols = ",PROXIED:PLAINTEXT";
        }
        let text = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller_port}\n\
             controller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{sasl_port},SSL://127.0.0.1:{tls_port},CONTROLLER://127.0.0.1:{controller_port}{listeners}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{sasl_port},SSL://127.0.0.1:{tls_port}{advertised}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:PLAINTEXT{protocols}\n\
             listener.name.ssl.ssl.client.auth=required\n\
             inter.broker.listener.name=PLAINTEXT\n\
             ssl.keystore.type=PEM\nssl.keystore.location={both}\n\
             ssl.truststore.type=PEM\nssl.truststore.location={ca}\n\
             sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
             listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={SCRAM}\n\
             listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={SCRAM}\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{SASL_USER}=\"{SASL_PASSWORD}\";\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             super.users=User:ANONYMOUS;User:CN=127.0.0.1\n\
             allow.everyone.if.no.acl.found=false\n\
             auto.create.topics.enable=false\n\
             log.dirs={folder}\n\
             num.partitions=4\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             share.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             log.cleaner.enable=false\n\
             log.retention.ms=-1\n"
        );
        std::fs::write(self.path("server.properties"), text).expect("the folder can be written");
        let logging = "status=warn\nappender.c.type=Console\nappender.c.name=c\nappender.c.layout.type=PatternLayout\n\
                       appender.c.layout.pattern=%d %p %m (%c)%n\nrootLogger.level=warn\nrootLogger.appenderRef.c.ref=c\n";
        std::fs::write(self.path("log4j2.properties"), logging).expect("the folder can be written");
    }
}

/// Where the jars are.
fn library() -> PathBuf {
    let path = std::env::var_os("CCRELAY_KAFKA_LIB")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".cache/kafka/lib"), PathBuf::from);
    let found = path.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    assert!(found, "no Kafka in {}: run `make setup` (or set CCRELAY_KAFKA_LIB)", path.display());
    path
}

fn run(command: &[String]) -> String {
    let output = Command::new(&command[0]).args(&command[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}: run `make setup`", command[0]));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{text}\n{errors}");
    text
}

async fn topic_partitions(config: ClientConfig, topic: String, partitions: i32) -> Option<()> {
    let asked = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(2)).ok()?;
        let found = metadata.topics().first()?;
        let led = found.partitions().iter().filter(|partition| partition.leader() >= 0).count();
        (i32::try_from(led) == Ok(partitions)).then_some(())
    });
    asked.await.expect("the question ends")
}

/// Lets a consumer read these partitions, each from there on.
pub(crate) fn assign(consumer: &BaseConsumer, topic: &str, places: impl Iterator<Item = (i32, Offset)>) {
    let mut list = TopicPartitionList::new();
    for (partition, from) in places {
        list.add_partition_offset(topic, partition, from).expect("a valid offset");
    }
    consumer.assign(&list).expect("the topic can be read");
}

fn read_all(config: &ClientConfig, topic: &str) -> Vec<Record> {
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).expect("the broker answers");
    let partitions: Vec<i32> = metadata.topics()[0].partitions().iter().map(|p| p.id()).collect();
    assign(&consumer, topic, partitions.iter().map(|partition| (*partition, Offset::Beginning)));
    let (mut records, mut ended, begin) = (Vec::new(), 0, Instant::now());
    while ended < partitions.len() {
        assert!(begin.elapsed() < DEADLINE, "the topic has no end");
        match consumer.poll(Duration::from_millis(500)) {
            Some(Ok(message)) => records.push(Record::of(&message)),
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => eprintln!("the reader goes on after {error}"),
            None => {}
        }
    }
    records.sort_by_key(|record| record.partition);
    records
}

impl Record {
    pub(crate) fn of(message: &BorrowedMessage<'_>) -> Record {
        Record {
            partition: message.partition(),
            key: text(message.key()),
            timestamp: message.timestamp().to_millis(),
            headers: message.headers().map_or_else(Vec::new, |headers| {
                headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect()
            }),
            payload: message.payload().unwrap_or_default().to_vec(),
        }
    }
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}
