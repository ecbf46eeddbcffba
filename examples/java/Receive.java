// Receives webhooks and verifies them: java Receive.java
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public class Receive {
    static boolean verify(String secret, Map<String, String> headers, byte[] body) throws Exception {
        long second = Long.parseLong(headers.get("webhook-timestamp"));
        if (Math.abs(System.currentTimeMillis() / 1000 - second) > 300) return false;
        byte[] key = Base64.getDecoder().decode(secret.replaceFirst("^whsec_", ""));
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
        mac.update((headers.get("webhook-id") + "." + second + ".").getBytes(StandardCharsets.UTF_8));
        String expected = "v1," + Base64.getEncoder().encodeToString(mac.doFinal(body));
        for (String given : headers.get("webhook-signature").split(" "))
            if (MessageDigest.isEqual(given.getBytes(StandardCharsets.UTF_8), expected.getBytes(StandardCharsets.UTF_8)))
                return true;
        return false;
    }

    static final int MAX_BODY_BYTES = 1 << 20;
    static final Set<String> SEEN = ConcurrentHashMap.newKeySet(); // in earnest: a table of the last days' ids

    static void receive(HttpExchange exchange) {
        try (exchange) {
            byte[] body = exchange.getRequestBody().readNBytes(MAX_BODY_BYTES);
            Map<String, String> headers = new HashMap<>();
            exchange.getRequestHeaders().forEach((name, values) -> headers.put(name.toLowerCase(), values.get(0)));
            boolean genuine = headers.keySet().containsAll(Set.of("webhook-id", "webhook-timestamp", "webhook-signature"))
                && verify(System.getenv("ASKWHEN_WEBHOOK_SECRET"), headers, body);
            exchange.sendResponseHeaders(genuine ? 204 : 401, -1);
            // What it says is read by a JSON library.
            if (genuine && SEEN.add(headers.get("webhook-id")))
                System.out.println("verified " + new String(body, StandardCharsets.UTF_8));
        } catch (Exception error) {
            System.err.println(error);
        }
    }

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(System.getenv().getOrDefault("PORT", "9000"));
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.createContext("/", Receive::receive);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.start();
    }
}
