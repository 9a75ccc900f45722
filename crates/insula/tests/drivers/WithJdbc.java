// What PostgreSQL's JDBC driver does besides sending statements: it prepares on
// the server what is asked again, fetches rows in portions, writes several rows
// as one statement, copies.
//
// It gets a jdbc: URL, a user and a password, and prints a line for each thing.
// With `changed` behind them it does instead what changed.py does.

import java.io.StringReader;
import java.io.StringWriter;
import java.sql.*;
import java.util.*;
import org.postgresql.PGConnection;
import org.postgresql.PGStatement;
import org.postgresql.copy.CopyManager;

public class WithJdbc {
    static String url, user, password;

    static void say(String what, Object... values) {
        System.out.println(what + ": " + Arrays.asList(values));
    }

    static Connection connect(String... options) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", user);
        properties.setProperty("password", password);
        for (int at = 0; at < options.length; at += 2) {
            properties.setProperty(options[at], options[at + 1]);
        }
        return DriverManager.getConnection(url, properties);
    }

    interface Act {
        void run() throws Exception;
    }

    static String failure(Act act) throws Exception {
        try {
            act.run();
            return "none";
        } catch (SQLException error) {
            return error.getSQLState();
        }
    }

    static String one(Connection connection, String query) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(query)) {
            rows.next();
            return rows.getString(1);
        }
    }

    static void preparedByItself() throws Exception {
        try (Connection first = connect("prepareThreshold", "2", "preparedStatementCacheQueries", "2");
                Connection second = connect("prepareThreshold", "2")) {
            boolean right = true;
            List<PreparedStatement> statements = new ArrayList<>();
            for (int extra = 0; extra < 4; extra++) {
                statements.add(first.prepareStatement("select ?::int * 10 + " + extra));
                statements.add(second.prepareStatement("select ?::int * 100 + " + extra));
            }
            for (int n = 0; n < 8; n++) {
                for (int at = 0; at < statements.size(); at++) {
                    PreparedStatement statement = statements.get(at);
                    statement.setInt(1, n);
                    try (ResultSet rows = statement.executeQuery()) {
                        rows.next();
                        right &= rows.getInt(1) == n * (at % 2 == 0 ? 10 : 100) + at / 2;
                    }
                }
            }
            boolean prepared = statements.get(7).unwrap(PGStatement.class).isUseServerPrepare();
            for (PreparedStatement statement : statements) {
                statement.close();
            }
            say("prepared by itself", right, prepared);
        }
    }

    static void portions() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            connection.setAutoCommit(false);
            statement.setFetchSize(7);
            long sum = 0;
            try (ResultSet rows = statement.executeQuery("select n from generate_series(1, 100) n")) {
                while (rows.next()) {
                    sum += rows.getInt(1);
                }
            }
            ResultSet left = statement.executeQuery("select n from generate_series(1, 100) n");
            left.next();
            left.close();
            connection.commit();
            say("rows in portions", sum, one(connection, "select 'goes on'"));
            connection.commit();
        }
    }

    static void batches() throws Exception {
        for (String rewrite : List.of("false", "true")) {
            try (Connection connection = connect("reWriteBatchedInserts", rewrite)) {
                String insert = "insert into things (key, n) values (?, ?)";
                int written = 0;
                try (PreparedStatement statement = connection.prepareStatement(insert)) {
                    for (int n = 0; n < 300; n++) {
                        statement.setString(1, "jdbc-" + n);
                        statement.setInt(2, n);
                        statement.addBatch();
                    }
                    written = statement.executeBatch().length;
                }
                connection.setAutoCommit(false);
                String again;
                try (PreparedStatement statement = connection.prepareStatement(insert, new String[] {"id"})) {
                    for (int n : new int[] {1000, 1001, 5}) {
                        statement.setString(1, "jdbc-" + n);
                        statement.setInt(2, n);
                        statement.addBatch();
                    }
                    again = failure(statement::executeBatch);
                }
                connection.rollback();
                connection.setAutoCommit(true);
                String sum = one(connection, "select count(*) || ' ' || sum(n) from things where key like 'jdbc-%'");
                one(connection, "with gone as (delete from things where key like 'jdbc-%' returning 1) select count(*) from gone");
                say("batches, rewritten " + rewrite, written, again, sum);
            }
        }
    }

    static void copies() throws Exception {
        try (Connection connection = connect()) {
            CopyManager copies = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder lines = new StringBuilder();
            for (int n = 0; n < 1000; n++) {
                lines.append("jcopy-").append(n).append('\t').append(n).append('\n');
            }
            String copy = "copy things (key, n) from stdin";
            long into = copies.copyIn(copy, new StringReader(lines.toString()));
            StringWriter out = new StringWriter();
            copies.copyOut("copy (select key, n from things where key like 'jcopy-%' order by n) to stdout", out);
            String again = failure(() -> copies.copyIn(copy, new StringReader(lines.toString())));
            String gone = one(connection, "with gone as (delete from things where key like 'jcopy-%' returning 1) select count(*) from gone");
            say("copied", into, out.toString().contentEquals(lines), again, gone);
        }
    }

    static void transactions() throws Exception {
        try (Connection connection = connect("autosave", "always"); Statement statement = connection.createStatement()) {
            connection.setAutoCommit(false);
            connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            statement.executeUpdate("insert into counters values ('jdbc', 1)");
            String twice = failure(() -> statement.executeUpdate("insert into counters values ('jdbc', 1)"));
            Savepoint savepoint = connection.setSavepoint();
            statement.executeUpdate("insert into counters values ('jdbc-two', 1)");
            connection.rollback(savepoint);
            connection.commit();
            connection.setReadOnly(true);
            String written = failure(() -> statement.executeUpdate("insert into counters values ('jdbc-no', 1)"));
            connection.rollback();
            connection.setReadOnly(false);
            say("transactions", twice, written, one(connection, "select string_agg(key, ' ') from counters where key like 'jdbc%'"),
                    one(connection, "show transaction_isolation"));
            connection.rollback();
        }
    }

    static void values() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1", "stringtype", "unspecified")) {
            String insert = "insert into things (key, kind, price, at, body, data, tags) values (?, ?, ?, ?, ?, ?, ?) returning id, kind, price, at, body, data, tags";
            try (PreparedStatement statement = connection.prepareStatement(insert)) {
                String seen = "";
                for (int n = 0; n < 3; n++) {
                    statement.setString(1, "jval-" + n);
                    statement.setString(2, "large");
                    statement.setBigDecimal(3, new java.math.BigDecimal("12.50"));
                    statement.setTimestamp(4, new Timestamp(1_700_000_000_000L));
                    statement.setString(5, "{\"a\": [1]}");
                    statement.setBytes(6, new byte[] {0, -1});
                    statement.setArray(7, connection.createArrayOf("text", new String[] {"x", null}));
                    try (ResultSet rows = statement.executeQuery()) {
                        rows.next();
                        seen = rows.getString(2) + " " + rows.getBigDecimal(3) + " " + rows.getTimestamp(4).getTime() + " "
                                + rows.getString(5) + " " + rows.getBytes(6).length + " " + rows.getArray(7);
                    }
                }
                say("values", seen);
            }
            List<String> columns = new ArrayList<>();
            try (ResultSet found = connection.getMetaData().getColumns(null, connection.getSchema(), "counters", null)) {
                while (found.next()) {
                    columns.add(found.getString("COLUMN_NAME") + " " + found.getString("TYPE_NAME"));
                }
            }
            say("asked of the catalogs", columns);
        }
    }

    static void cancels() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            String late = failure(() -> statement.execute("select pg_sleep(60)"));
            say("cancelled", late, one(connection, "select 'goes on'"), connection.isValid(5));
        }
    }

    static List<String> attempts(List<PreparedStatement> statements) throws SQLException {
        List<String> got = new ArrayList<>();
        for (int attempt = 0; attempt < 3; attempt++) {
            got.clear();
            for (PreparedStatement statement : statements) {
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    got.add(String.valueOf(rows.getLong(1)));
                } catch (SQLException error) {
                    got.add(error.getSQLState());
                }
            }
        }
        return got;
    }

    static void changed() throws Exception {
        List<PreparedStatement> statements = new ArrayList<>();
        for (int number = 0; number < 2; number++) {
            Connection connection = connect("prepareThreshold", "1");
            statements.add(connection.prepareStatement("select n from things where key = 'changing'"));
        }
        attempts(statements);
        System.out.println("ready");
        System.in.read();
        say("jdbc", attempts(statements).toArray());
    }

    public static void main(String[] arguments) throws Exception {
        url = arguments[0];
        user = arguments[1];
        password = arguments[2];
        if (arguments.length > 3) {
            changed();
            return;
        }
        preparedByItself();
        portions();
        batches();
        copies();
        transactions();
        values();
        cancels();
    }
}
