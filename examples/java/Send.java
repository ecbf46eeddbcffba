// Tells askwhen that a user has woken up: java Send.java user_123
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.UUID;

public class Send {
    /** Sends an event. Its id makes a second try harmless. */
    static String send(String url, String key, String event) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest request = HttpRequest.newBuilder(URI.create(url + "/v1/events"))
            .header("Authorization", "Bearer " + key)
            .header("Content-Type", "application/json")
            .timeout(Duration.ofSeconds(10))
            .POST(HttpRequest.BodyPublishers.ofString(event))
            .build();
        for (int attempt = 1; ; attempt++) {
            HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
            int status = response.statusCode();
            if (status < 300) return response.body();
            if (status != 429 && status != 503 || attempt == 5) throw new IllegalStateException(status + " " + response.body());
            Thread.sleep(1000 * response.headers().firstValueAsLong("retry-after").orElse(1));
        }
    }

    public static void main(String[] arguments) throws Exception {
        String url = System.getenv().getOrDefault("ASKWHEN_URL", "http://127.0.0.1:8080");
        // A user id that comes from elsewhere is written by a JSON library.
        String event = """
            {"event_id": "%s", "user_id": "%s", "event_name": "ended_sleep", "properties": {"duration_min": 415}}
            """.formatted(UUID.randomUUID(), arguments[0]);
        System.out.println(send(url, System.getenv("ASKWHEN_KEY"), event));
    }
}
