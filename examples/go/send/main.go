// Tells askwhen that a user has woken up: go run ./send user_123
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"time"
)

// send tells an event. Its id makes a second try harmless.
func send(url, key, user, name string, properties map[string]any) (string, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return "", err
	}
	body, err := json.Marshal(map[string]any{
		"event_id": hex.EncodeToString(id), "user_id": user, "event_name": name, "properties": properties,
	})
	if err != nil {
		return "", err
	}
	client := http.Client{Timeout: 10 * time.Second}
	for attempt := 1; ; attempt++ {
		request, err := http.NewRequest("POST", url+"/v1/events", bytes.NewReader(body))
		if err != nil {
			return "", err
		}
		request.Header.Set("Authorization", "Bearer "+key)
		request.Header.Set("Content-Type", "application/json")
		response, err := client.Do(request)
		if err != nil {
			return "", err
		}
		answer, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return "", err
		}
		if response.StatusCode < 300 {
			return string(answer), nil
		}
		again := response.StatusCode == 429 || response.StatusCode == 503
		if !again || attempt == 5 {
			return "", fmt.Errorf("%s %s", response.Status, answer)
		}
		seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
		if err != nil {
			seconds = 1
		}
		time.Sleep(time.Duration(seconds) * time.Second)
	}
}

func main() {
	url := os.Getenv("ASKWHEN_URL")
	if url == "" {
		url = "http://127.0.0.1:8080"
	}
	if len(os.Args) < 2 {
		log.Fatal("which user?")
	}
	answer, err := send(url, os.Getenv("ASKWHEN_KEY"), os.Args[1], "ended_sleep", map[string]any{"duration_min": 415})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer)
}
