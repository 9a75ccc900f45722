//! What no driver says: messages that are out of place, out of order, cut off,
//! or not as long as they say.

use bytes::BytesMut;
use insula_pg_wire::frontend::{Parse, tag};
use insula_pg_wire::startup::{
    CancelKey, put_cancel_request, put_gss_encryption_request, put_session_start, put_ssl_request,
};

use crate::attempt::Want::{Itself, Unseen};
use crate::attempt::{Attempt, bytes, knock};
use crate::ground::Ground;
use crate::session::put;

/// Messages, one behind the other.
struct Talk<'a> {
    ground: &'a Ground,
    out: BytesMut,
}

impl<'a> Talk<'a> {
    fn new(ground: &'a Ground) -> Self {
        Self { ground, out: BytesMut::new() }
    }

    fn text(&self, template: &str) -> String {
        self.ground.fill(template).unwrap_or_else(|_| template.to_owned())
    }

    fn query(mut self, template: &str) -> Self {
        let text = self.text(template) + "\0";
        put(&mut self.out, tag::QUERY, text.as_bytes());
        self
    }

    fn parse(mut self, name: &str, template: &str) -> Self {
        let text = self.text(template);
        let parse = Parse { name: name.as_bytes(), query: text.as_bytes(), parameter_types: &[0, 0] };
        let _ = parse.put(&mut self.out);
        self
    }

    fn bind(self, portal: &str, statement: &str) -> Self {
        let body = [portal.as_bytes(), b"\0", statement.as_bytes(), b"\0", &[0; 6]].concat();
        self.message(tag::BIND, &body)
    }

    fn execute(self, portal: &str) -> Self {
        let body = [portal.as_bytes(), b"\0", &[0; 4]].concat();
        self.message(tag::EXECUTE, &body)
    }

    fn describe(self, kind: u8, name: &str) -> Self {
        let body = [&[kind], name.as_bytes(), b"\0"].concat();
        self.message(tag::DESCRIBE, &body)
    }

    fn sync(self) -> Self {
        self.message(tag::SYNC, b"")
    }

    fn message(mut self, tag: u8, body: &[u8]) -> Self {
        put(&mut self.out, tag, body);
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// A message with a length that is not its own.
    fn lying(mut self, tag: u8, length: u32, body: &[u8]) -> Self {
        self.out.extend_from_slice(&[tag]);
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(body);
        self
    }

    /// A call of a function by its number, with arguments as text.
    fn call(self, oid: u32, arguments: &[&str]) -> Self {
        let count = |number: usize| u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
        let mut body = oid.to_be_bytes().to_vec();
        body.extend([0, 0]);
        body.extend(count(arguments.len()));
        for argument in arguments {
            let argument = self.text(argument);
            body.extend(u32::try_from(argument.len()).unwrap_or(0).to_be_bytes());
            body.extend(argument.as_bytes());
        }
        body.extend([0, 0]);
        self.message(tag::FUNCTION_CALL, &body)
    }

    fn done(self) -> Vec<u8> {
        self.out.to_vec()
    }
}

fn packet(make: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    make(&mut out);
    out.to_vec()
}

fn startup_as(user: &str) -> Vec<u8> {
    let parameters: [(&[u8], &[u8]); 2] = [(b"user", user.as_bytes()), (b"database", b"app")];
    packet(|out| {
        let _ = put_session_start(out, &parameters);
    })
}

const WHO: &str = "select current_user";

pub(super) const ATTEMPTS: &[Attempt] = &[
    bytes("many-statements", "Become the victim among many statements of one message.", Unseen, |g| {
        Talk::new(g)
            .query("select 1; select 2; set role {role}; select * from {table}")
            .query("select * from {table}")
            .done()
    }),
    bytes("pipelined-queries", "Become the victim in a message that follows at once.", Itself, |g| {
        Talk::new(g)
            .query("set role {role}")
            .query(WHO)
            .query("discard all")
            .query("set role {role}")
            .query(WHO)
            .done()
    }),
    bytes("discard-in-comments", "Reset the session in an odd spelling, and read.", Itself, |g| {
        Talk::new(g)
            .query("/*/**/*/ DiScArD--\n\tALL")
            .query("set/**/session/**/authorization/**/{role}")
            .query(WHO)
            .done()
    }),
    bytes("discard-behind-mark", "Reset the session behind a byte order mark.", Itself, |g| {
        Talk::new(g).query("\u{feff}discard all").query("\u{feff}set role {role}").query(WHO).done()
    }),
    bytes("discard-behind-space", "Reset the session behind odd white space.", Itself, |g| {
        Talk::new(g)
            .query("\u{0b}\u{0c}\r\n discard\u{0b}all")
            .query("\u{a0}set role {role}")
            .query(WHO)
            .done()
    }),
    bytes("discard-prepared", "Reset the session by a prepared statement.", Itself, |g| {
        Talk::new(g)
            .parse("d", "discard all")
            .bind("", "d")
            .execute("")
            .sync()
            .parse("r", "set role {role}")
            .bind("", "r")
            .execute("")
            .sync()
            .query(WHO)
            .done()
    }),
    bytes(
        "authorization-reset-prepared",
        "Get behind the session's role by prepared statements.",
        Itself,
        |g| {
            Talk::new(g)
                .parse("", "reset session authorization")
                .bind("", "")
                .execute("")
                .parse("", "reset role")
                .bind("", "")
                .execute("")
                .sync()
                .query(WHO)
                .done()
        },
    ),
    bytes(
        "encoding-sjis",
        "Hide a change of role in an encoding whose characters end in a backslash.",
        Unseen,
        |g| {
            let role = g.word("role");
            let hidden = [
                b"select '\x81\\'; set role ",
                role.as_bytes(),
                b"; select * from ",
                g.word("table").as_bytes(),
                b"; --'\0",
            ]
            .concat();
            Talk::new(g)
                .query("set client_encoding = 'SJIS'")
                .message(tag::QUERY, &hidden)
                .query("select * from {table}")
                .done()
        },
    ),
    bytes("encoding-gbk", "Hide a change of role in another such encoding.", Unseen, |g| {
        let hidden = [b"select '\xbf\x5c'; set role ", g.word("role").as_bytes(), b"; --'\0"].concat();
        Talk::new(g)
            .query("set client_encoding = 'GBK'; set standard_conforming_strings = off")
            .message(tag::QUERY, &hidden)
            .query("select * from {table}")
            .done()
    }),
    bytes("encoding-broken", "Hide a change of role behind bytes that are no text.", Itself, |g| {
        let broken = [b"\xff\xfe\xc3\x28 set role ", g.word("role").as_bytes(), b"\0"].concat();
        Talk::new(g).message(tag::QUERY, &broken).query(WHO).done()
    }),
    bytes("quotes-nested", "Hide a change of role in quotations within quotations.", Itself, |g| {
        Talk::new(g)
            .query("select from (select E'\\'; set role {role}; --') x")
            .query("do $a$ begin perform $b$ set role {role} $b$; end $a$")
            .query(WHO)
            .done()
    }),
    bytes("zero-in-text", "Hide a statement behind a zero byte.", Itself, |g| {
        let text = [b"select current_user\0; set role ", g.word("role").as_bytes(), b"\0"].concat();
        Talk::new(g).message(tag::QUERY, &text).query(WHO).done()
    }),
    bytes("text-without-end", "Send a text that has no end.", Unseen, |g| {
        Talk::new(g).message(tag::QUERY, b"select 1").query("select * from {table}").done()
    }),
    bytes("text-empty", "Send empty texts.", Unseen, |g| {
        Talk::new(g).query("").message(tag::QUERY, b"").query("select * from {table}").done()
    }),
    bytes("text-long", "Hide a change of role behind 100,000 bytes.", Itself, |g| {
        let padding = " ".repeat(100_000);
        Talk::new(g).query(&format!("{padding}set role {{role}}")).query(WHO).done()
    }),
    bytes(
        "text-long-tail",
        "Hide a change of role at the end of a long text of many statements.",
        Unseen,
        |g| {
            let padding = format!("select '{}';", "x".repeat(70_000));
            Talk::new(g)
                .query(&format!("{padding} set role {{role}}; select * from {{table}}"))
                .query("select * from {table}")
                .done()
        },
    ),
    bytes("length-too-short", "Let a message be longer than it says.", Unseen, |g| {
        let hidden = Talk::new(g).query("set role {role}").query("select * from {table}").done();
        Talk::new(g).lying(tag::QUERY, 8, b";;;\0").raw(&hidden).done()
    }),
    bytes("length-too-long", "Let a message be shorter than it says, with others behind it.", Unseen, |g| {
        let behind = Talk::new(g).query("set role {role}").query("select * from {table}").done();
        Talk::new(g).lying(tag::QUERY, 300, b"select 1\0").raw(&behind).done()
    }),
    bytes("length-zero", "Say that a message has no length.", Unseen, |g| {
        Talk::new(g).lying(tag::QUERY, 0, b"select 1\0").query("select * from {table}").done()
    }),
    bytes("length-negative", "Say that a message has a negative length.", Unseen, |g| {
        Talk::new(g).lying(tag::QUERY, u32::MAX, b"select 1\0").query("select * from {table}").done()
    }),
    bytes("length-huge", "Announce two gigabytes.", Unseen, |g| {
        Talk::new(g).lying(tag::QUERY, i32::MAX as u32, b"select 1\0").done()
    }),
    bytes("half-a-message", "Leave in the middle of a message.", Unseen, |g| {
        Talk::new(g).query("select 1").lying(tag::QUERY, 100, b"select * from").done()
    }),
    bytes("half-a-header", "Leave in the middle of a header.", Unseen, |g| {
        Talk::new(g).query("select 1").raw(&[tag::QUERY, 0, 0]).done()
    }),
    bytes("unknown-message", "Send messages that there are not.", Unseen, |g| {
        Talk::new(g)
            .message(b'!', b"x")
            .message(0, b"")
            .message(0xff, b"x")
            .query("select * from {table}")
            .done()
    }),
    bytes("server-message", "Send messages that only servers send.", Unseen, |g| {
        Talk::new(g)
            .message(b'Z', b"I")
            .message(b'R', &[0, 0, 0, 0])
            .message(b'K', &[0; 8])
            .query("select * from {table}")
            .done()
    }),
    bytes("second-startup", "Begin another session within the session, as the victim.", Itself, |g| {
        Talk::new(g).query(WHO).raw(&startup_as(g.word("login"))).query(WHO).done()
    }),
    bytes(
        "second-startup-first",
        "Begin another session as the first that is said, as the victim's role.",
        Itself,
        |g| Talk::new(g).raw(&startup_as(g.word("role"))).query(WHO).done(),
    ),
    bytes("ssl-in-the-middle", "Ask for TLS within the session.", Itself, |g| {
        Talk::new(g).query(WHO).raw(&packet(put_ssl_request)).query(WHO).done()
    }),
    bytes("gss-in-the-middle", "Ask for GSSAPI within the session.", Itself, |g| {
        Talk::new(g).query(WHO).raw(&packet(put_gss_encryption_request)).query(WHO).done()
    }),
    bytes(
        "cancel-in-the-middle",
        "Send the packet of a cancel, with the victim's key, within the session.",
        Unseen,
        |g| {
            let nobody = || CancelKey { process_id: 1, secret: [0, 0, 0, 1].into() };
            let key = g.victim_key.clone().unwrap_or_else(nobody);
            Talk::new(g).raw(&packet(|out| put_cancel_request(out, &key))).done()
        },
    ),
    bytes("authenticate-again", "Authenticate again within the session.", Itself, |g| {
        Talk::new(g)
            .message(tag::PASSWORD, b"SCRAM-SHA-256\0\0\0\0\x20n,,n=x,r=abcdefghijklmnopqrstuvwx")
            .query(WHO)
            .done()
    }),
    bytes("bind-guessed", "Bind statements by names that others may have.", Unseen, |g| {
        let names = [
            "s1",
            "S_1",
            "s0",
            "insula_1",
            "insula_2",
            "i1",
            "i2",
            "1",
            "sqlx_s_1",
            "__asyncpg_stmt_1__",
            "_pg3_0",
            "lrupsc_1_0",
        ];
        names.into_iter().fold(Talk::new(g), |talk, name| talk.bind("", name).execute("").sync()).done()
    }),
    bytes(
        "describe-guessed",
        "Describe statements and portals by names that others may have.",
        Unseen,
        |g| {
            let names = ["s1", "S_1", "insula_1", "insula_2", "i1", "1", "C_1", ""];
            names
                .into_iter()
                .fold(Talk::new(g), |talk, name| talk.describe(b'S', name).sync().describe(b'P', name).sync())
                .done()
        },
    ),
    bytes("execute-guessed", "Go on with portals by names that others may have.", Unseen, |g| {
        let names = ["", "C_1", "c", "p1", "<unnamed portal 1>"];
        names.into_iter().fold(Talk::new(g), |talk, name| talk.execute(name).sync()).done()
    }),
    bytes("bind-unnamed", "Bind the unnamed statement, which the last client may have left.", Unseen, |g| {
        Talk::new(g).bind("", "").execute("").sync().done()
    }),
    bytes("bind-across-sync", "Use a portal of another transaction.", Unseen, |g| {
        Talk::new(g).parse("p", "select * from {table}").bind("c", "p").sync().execute("c").sync().done()
    }),
    bytes("bind-negative", "Bind with counts that are negative.", Unseen, |g| {
        Talk::new(g)
            .parse("p", "select 1")
            .message(tag::BIND, b"\0p\0\xff\xff\xff\xff\xff\xff")
            .execute("")
            .sync()
            .query("select * from {table}")
            .done()
    }),
    bytes("parse-many", "Prepare several statements in one.", Itself, |g| {
        Talk::new(g)
            .parse("", "set role {role}; select current_user")
            .bind("", "")
            .execute("")
            .sync()
            .query(WHO)
            .done()
    }),
    bytes("parse-role", "Prepare a change of role, and run it twice.", Itself, |g| {
        Talk::new(g)
            .parse("r", "set role {role}")
            .bind("", "r")
            .execute("")
            .sync()
            .bind("", "r")
            .execute("")
            .sync()
            .query(WHO)
            .done()
    }),
    bytes("skipped-until-sync", "Have statements run that an error should skip.", Itself, |g| {
        Talk::new(g)
            .parse("", "select 1/0")
            .bind("", "")
            .execute("")
            .parse("", "set role {role}")
            .bind("", "")
            .execute("")
            .sync()
            .query(WHO)
            .done()
    }),
    bytes("call-set-config", "Become the victim by calling a function by its number.", Itself, |g| {
        Talk::new(g).call(2078, &["role", "{role}", "f"]).query(WHO).done()
    }),
    bytes("call-terminate", "End the victim by calling a function by its number.", Unseen, |g| {
        Talk::new(g).call(2096, &["{pid}", "0"]).done()
    }),
    bytes("call-cancel", "Cancel the victim by calling a function by its number.", Unseen, |g| {
        Talk::new(g).call(2171, &["{pid}"]).done()
    }),
    bytes("call-read-file", "Read a file by calling a function by its number.", Unseen, |g| {
        Talk::new(g).call(2624, &["PG_VERSION", "0", "9"]).call(6208, &["PG_VERSION"]).done()
    }),
    bytes(
        "call-large-objects",
        "Read and write files as large objects by calling functions by their numbers.",
        Unseen,
        |g| {
            Talk::new(g)
                .call(764, &["/etc/passwd"])
                .call(765, &["1", "/tmp/insula-attack"])
                .call(952, &["1", "262144"])
                .done()
        },
    ),
    bytes("call-activity", "Read others' sessions by calling a function by its number.", Unseen, |g| {
        Talk::new(g).call(2022, &["{pid}"]).call(1940, &["1"]).done()
    }),
    bytes(
        "call-nothing",
        "Call a function that there is not, with arguments that are cut off.",
        Unseen,
        |g| {
            Talk::new(g)
                .call(0, &[])
                .message(tag::FUNCTION_CALL, &[0, 0, 8, 30, 0, 0, 0, 9])
                .query("select * from {table}")
                .done()
        },
    ),
    bytes("copy-left-open", "Leave in the middle of a COPY.", Unseen, |g| {
        Talk::new(g).query("copy {table} ({columns}) from stdin").message(tag::COPY_DATA, b"1\t").done()
    }),
    bytes("copy-without-copy", "Send rows and ends of a COPY that there is not.", Unseen, |g| {
        Talk::new(g)
            .message(tag::COPY_DATA, b"x")
            .message(tag::COPY_DONE, b"")
            .message(tag::COPY_FAIL, b"x\0")
            .query("select * from {table}")
            .done()
    }),
    bytes("query-within-copy", "Become the victim while a COPY waits for rows.", Itself, |g| {
        Talk::new(g)
            .query("copy {table} ({columns}) from stdin")
            .query("set role {role}")
            .message(tag::COPY_FAIL, b"x\0")
            .query(WHO)
            .done()
    }),
    bytes("copy-out-left", "Leave while rows are copied out, with a transaction open.", Unseen, |g| {
        Talk::new(g).query("begin").query("copy (select generate_series(1, 100000)) to stdout").done()
    }),
    bytes("talk-behind-terminate", "Go on behind the end of the session.", Unseen, |g| {
        Talk::new(g)
            .query("select 1")
            .message(tag::TERMINATE, b"")
            .query("set role {role}")
            .query("select * from {table}")
            .done()
    }),
    bytes("many-syncs", "Send many Syncs and Flushes.", Itself, |g| {
        (0..200).fold(Talk::new(g), |talk, _| talk.sync().message(tag::FLUSH, b"")).query(WHO).done()
    }),
    bytes("replication-commands", "Send commands of replication.", Unseen, |g| {
        Talk::new(g)
            .query("IDENTIFY_SYSTEM")
            .query("BASE_BACKUP")
            .query("START_REPLICATION 0/0")
            .query("READ_REPLICATION_SLOT x")
            .done()
    }),
    knock("query-before-login", "Ask before anybody has said who it is.", |g| {
        Talk::new(g).query("select * from {table}").done()
    }),
    knock("query-behind-startup", "Ask behind a startup packet, without a secret.", |g| {
        Talk::new(g).raw(&startup_as(g.word("login"))).query("select * from {table}").done()
    }),
    knock("ok-behind-startup", "Say that the secret was right.", |g| {
        Talk::new(g)
            .raw(&startup_as(g.word("login")))
            .message(b'R', &[0, 0, 0, 0])
            .query("select * from {table}")
            .done()
    }),
    knock("plain-password", "Give a password where an exchange is asked for.", |g| {
        Talk::new(g)
            .raw(&startup_as(g.word("login")))
            .message(tag::PASSWORD, b"\0")
            .message(tag::PASSWORD, b"secret\0")
            .query("select 1")
            .done()
    }),
    knock("exchange-without-secret", "End an exchange before it has begun.", |g| {
        Talk::new(g)
            .raw(&startup_as(g.word("login")))
            .message(tag::PASSWORD, b"c=biws,r=x,p=AAAA")
            .query("select 1")
            .done()
    }),
    knock("startup-names-unfinished", "Begin with names that do not end.", |_| {
        b"\0\0\0\x14\0\x03\0\0user\0postgr".to_vec()
    }),
    knock("startup-nothing", "Begin with no names.", |_| b"\0\0\0\x09\0\x03\0\0\0".to_vec()),
    knock("startup-old", "Begin in an old protocol.", |_| b"\0\0\0\x08\0\x02\0\0".to_vec()),
    knock("startup-long", "Begin with a packet of a gigabyte.", |_| {
        b"\x3f\xff\xff\xff\0\x03\0\0user\0".to_vec()
    }),
    knock("http", "Speak another protocol.", |_| b"GET /v1/tenants HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
    knock("cancel-anybody", "Cancel with keys of nobody.", |_| {
        packet(|out| put_cancel_request(out, &CancelKey { process_id: 0, secret: [0; 4].into() }))
    }),
];
