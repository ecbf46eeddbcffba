module askwhen.example

go 1.22
